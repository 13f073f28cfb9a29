"""Batch norm over the samples of all processes, and for other weights than those of the training."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import Strategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segflow.core.errors import SegflowError

logger = logging.getLogger(__name__)


def synchronise_batch_norm(network: nn.Module, trainer: pl.Trainer, choice: bool | None) -> nn.Module:
    """Let batch norms take their statistics over the whole batch if several GPUs share it, as nnU-Net does.

    Names and values of parameters and buffers stay the same, so a checkpoint fits either way.

    Args:
        network: The network, changed in place unless it is a batch norm itself. It must not be compiled yet.
        trainer: Lightning's trainer, which knows processes and device.
        choice: ``trainer.sync_batchnorm``; None synchronises where torch can, on GPUs.

    Raises:
        SegflowError: It is wanted on a CPU, where torch cannot.
    """
    has_batch_norm = any(isinstance(module, _BatchNorm) for module in network.modules())
    if trainer.world_size == 1 or not has_batch_norm or choice is False:
        return network
    device = trainer.strategy.root_device
    if device.type != "cpu":
        logger.info("batch norm takes its statistics over the samples of all %d processes", trainer.world_size)
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return synchronised
    if choice:
        raise SegflowError(
            "batch norm cannot be synchronised between processes on a CPU",
            found="trainer.sync_batchnorm=true",
            fix="Leave it out, train with one process, or on GPUs.",
        )
    logger.warning(
        "batch norm takes its statistics over the samples of each of %d processes alone: torch synchronises them on "
        "GPUs only",
        trainer.world_size,
    )
    return network


class NormStatistics:
    """The running means and variances of a network's batch norms. It is false for a network that has none.

    Args:
        network: The network.
    """

    BATCHES = 10
    """Batches that are enough for an estimate."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]

    def __bool__(self) -> bool:
        return bool(self._norms)

    @property
    def buffers(self) -> list[Tensor]:
        """Means and variances, each of shape (channels,)."""
        both = [(norm.running_mean, norm.running_var) for norm in self._norms]
        return [buffer for pair in both for buffer in pair if buffer is not None]

    @torch.no_grad()
    def estimate(self, images: Sequence[Tensor], strategy: Strategy) -> None:
        """Set them to the mean over batches, for the present weights and over all processes.

        All else, such as dropout, computes as in a prediction, and the count of batches stays.

        Args:
            images: Batches (B, C, *patch) on the device of the network.
            strategy: Of Lightning's trainer.
        """
        training = {module: module.training for module in self._network.modules()}
        before = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        self._network.eval()
        for norm in self._norms:
            norm.train()
            norm.momentum, norm.num_batches_tracked = None, torch.tensor(0)
            norm.reset_running_stats()
        for image in images:
            self._network(image)
        for norm, (momentum, count) in zip(self._norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
        for module, was_training in training.items():
            module.training = was_training
        for buffer in self.buffers:
            buffer.copy_(strategy.reduce(buffer.clone(), reduce_op="mean"))
