"""The time of a training step, measured before the training begins."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import nn

from segflow.network.levels import logits_of_levels
from segflow.training.training_job import TrainingJob

WARM_UP, MEASURED = 2, 5


@dataclass(frozen=True, slots=True)
class NetworkStep:
    """A forward and a backward pass on a batch.

    Attributes:
        shape: (B, C, *patch) of the batch.
        device: Device of the training.
        autocast: Type of mixed precision, or None.
    """

    shape: Sequence[int]
    device: torch.device
    autocast: torch.dtype | None

    @classmethod
    def of(cls, job: TrainingJob, trainer: pl.Trainer) -> NetworkStep:
        """The step of a training on one of its devices."""
        plan = job.record.plan
        share = -(-plan.batch_size // trainer.world_size)
        return cls(
            shape=(share, job.record.in_channels, *plan.patch_size),
            device=trainer.strategy.root_device,
            autocast={"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(str(trainer.precision)),
        )

    def seconds(self, network: nn.Module) -> float:
        """Measure the step. The network is on the device, and stays as it was, without gradients."""
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        try:
            for _ in range(WARM_UP):
                self._run(network)
            self._wait()
            started = time.perf_counter()
            for _ in range(MEASURED):
                self._run(network)
            self._wait()
            return (time.perf_counter() - started) / MEASURED
        finally:
            network.zero_grad(set_to_none=True)
            for buffer, before in buffers:
                buffer.copy_(before)  # such as running statistics, which must not begin with zeros

    def _run(self, network: nn.Module) -> None:
        image = torch.zeros(tuple(self.shape), device=self.device)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            loss = torch.stack([logits.float().mean() for logits in logits_of_levels(network(image))]).sum()
        loss.backward()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
