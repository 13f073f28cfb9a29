"""Batch norm over the samples of all processes."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
from torch import nn
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
