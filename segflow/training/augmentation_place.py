"""Where training batches are augmented: by the data workers, or on the device. A measurement decides."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from segflow.network.device_memory import give_back, is_out_of_memory
from segflow.sampling.batch import PatchBatch
from segflow.sampling.patch_dataset import PatchDataset
from segflow.training.datamodule import PatchDataModule
from segflow.training.device_augmentation import DeviceAugmentation

logger = logging.getLogger(__name__)

READ, AUGMENTED = 3, 8
"""Batches that are read and augmented for the measurement. Augmentations differ much from batch to batch."""


@dataclass(frozen=True, slots=True)
class OnDevice:
    """What it takes to augment training batches on the device.

    Attributes:
        augmentation: The augmentation.
        batches: The batches before augmentation.
        batch_bytes: Bytes of one of them.
    """

    augmentation: DeviceAugmentation
    batches: PatchDataset
    batch_bytes: int

    def take_over(self, module: Any, data: PatchDataModule) -> None:
        """Augment on the device from now on."""
        module.augmentation = self.augmentation
        data.serve(self.batches, self.batch_bytes)


@dataclass(frozen=True, slots=True)
class Seconds:
    """What a batch takes.

    Attributes:
        step: The network's forward and backward pass.
        augmented: An augmented batch of the data workers, when all are at work.
        read: Reading of a batch without augmentation, by the same workers.
        augmentation: Augmentation on the device.
        workers: Number of data workers; 0 if the training process makes the batches.
    """

    step: float
    augmented: float
    read: float
    augmentation: float
    workers: int

    @property
    def by_workers(self) -> float:
        """Seconds of a step if the workers augment. They work beside the network."""
        return max(self.step, self.augmented) if self.workers else self.step + self.augmented

    @property
    def on_device(self) -> float:
        """Seconds of a step if the device augments, between two passes of the network."""
        step = self.step + self.augmentation
        return max(step, self.read) if self.workers else step + self.read


class MeasuredPlace(Callback):
    """Chooses where batches are augmented when the training begins (``training.augmentation_device=auto``).

    Args:
        on_device: What it takes to augment on the device.
        step_seconds: Network → seconds of its forward and backward pass.
    """

    def __init__(self, on_device: OnDevice, step_seconds: Callable[[nn.Module], float]) -> None:
        self._on_device = on_device
        self._step_seconds = step_seconds

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        data: PatchDataModule = trainer.datamodule  # type: ignore[attr-defined]
        device = trainer.strategy.root_device
        try:
            seconds = self._measure(pl_module.network.to(device), data, device)
            both = [seconds.by_workers, seconds.on_device]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            seconds, both = None, [0.0, float("inf")]
        finally:
            give_back(device)
        # All processes must decide alike. The slowest counts, for which the others wait.
        slowest = trainer.strategy.reduce(torch.tensor(both, device=device), reduce_op="max").tolist()
        if slowest[1] < slowest[0]:
            self._on_device.take_over(pl_module, data)
        logger.info("%s", _told(seconds, device, on_device=slowest[1] < slowest[0]))

    def _measure(self, network: nn.Module, data: PatchDataModule, device: torch.device) -> Seconds:
        augmented, workers = data.measure()
        started = time.perf_counter()
        read = [self._on_device.batches[0, index] for index in range(READ)]
        reading = (time.perf_counter() - started) / READ
        return Seconds(
            step=self._step_seconds(network),
            augmented=augmented,
            read=reading / max(1, workers),
            augmentation=_augmentation_seconds(self._on_device.augmentation, read[0], device),
            workers=workers,
        )


def _augmentation_seconds(augmentation: DeviceAugmentation, batch: PatchBatch, device: torch.device) -> float:
    image, label = batch.image.to(device), batch.label.to(device)
    augmentation(image, label, epoch=0, index=0)  # the first call loads kernels
    _wait_for(device)
    started = time.perf_counter()
    for index in range(AUGMENTED):
        augmentation(image, label, epoch=0, index=index)
    _wait_for(device)
    return (time.perf_counter() - started) / AUGMENTED


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _told(seconds: Seconds | None, device: torch.device, *, on_device: bool) -> str:
    if seconds is None:
        return f"batches are augmented by the data workers: memory on {device} does not suffice for it"
    where = f"on {device}" if on_device else f"by {seconds.workers} data workers" if seconds.workers else "on the CPU"
    made = f"{seconds.workers} workers make one in" if seconds.workers else "the CPU makes one in"
    return (
        f"batches are augmented {where}: {made} {1e3 * seconds.augmented:.0f} ms, a step takes "
        f"{1e3 * seconds.step:.0f} ms, and {1e3 * seconds.augmentation:.0f} ms more with augmentation on {device}"
    )
