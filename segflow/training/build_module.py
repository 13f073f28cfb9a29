"""The module that Lightning trains: network, loss and optimizer of a fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.loss.deep_supervision import LOSS_CONTRACT, DeepSupervisionLoss
from segflow.network.cpu.accelerate import accelerate
from segflow.sampling.patch_dataset import samples_of_rank
from segflow.training.batch_norm import synchronise_batch_norm
from segflow.training.build_part import build_part
from segflow.training.compilation import compile_if_it_pays
from segflow.training.initial_weights import take_initial_weights
from segflow.training.module import SegmentationModule
from segflow.training.optimization import Optimization
from segflow.training.parameters import freeze
from segflow.training.quicker_format import take_quicker_format
from segflow.training.step_time import NetworkStep
from segflow.training.trainer import trainer_options
from segflow.training.training_job import TrainingJob

NETWORK = "something that is called with (topology, in_channels, out_channels, deep_supervision)"


def build_module(job: TrainingJob, trainer: pl.Trainer, *, fresh: bool) -> SegmentationModule:
    """Build the module. Its weights are drawn with the run's seed.

    Args:
        job: The fold to train.
        trainer: Lightning's trainer.
        fresh: The training begins, so that ``training.initial_weights`` is used.

    Raises:
        SegflowError: Network or loss cannot be built, or initial weights do not fit it.
    """
    record, settings, parts, plan = job.record, job.settings, job.parts, job.record.plan
    labels = record.dataset.labels
    torch.manual_seed(settings.seed)
    network = build_part(
        "network",
        parts.network,
        NETWORK,
        plan.topology,
        record.in_channels,
        labels.num_outputs,
        settings.deep_supervision,
    )
    if fresh and settings.initial_weights is not None:
        source = Path(settings.initial_weights).expanduser()
        transfer = take_initial_weights(network, source, record)
        if trainer.is_global_zero:
            job.folder.note("initial_weights", transfer.to_json())
    freeze(network, settings.freeze)
    network = synchronise_batch_norm(network, trainer, trainer_options(parts).get("sync_batchnorm"))
    device = trainer.strategy.root_device
    step = NetworkStep.of(job, trainer)
    if device.type == "cuda":
        take_quicker_format(network.to(device), step)
    if settings.compile != "off":
        compile_if_it_pays(network.to(device), settings.compile, step)
    if device.type == "cpu":
        accelerate(network)
    loss = build_part("loss", parts.loss, LOSS_CONTRACT, labels, plan.batch_dice)
    _refuse_smoothing(loss, labels)
    return SegmentationModule(
        network,
        _of_share(DeepSupervisionLoss(loss, plan.topology.strides), plan.batch_size, trainer),
        labels,
        Optimization(parts.optimizer, parts.schedule, int(trainer.max_epochs or 1), settings.lr_factors),
        channel_mask=record.has_channel_mask,
    )


def _refuse_smoothing(loss: nn.Module, labels: Labels) -> None:
    """Refuse smoothed targets in a partly labelled dataset: they would ask for labels that were not drawn."""
    smoothing = getattr(loss, "label_smoothing", 0.0)
    if labels.present is not None and smoothing:
        raise SegflowError(
            "loss.label_smoothing gives each label a share of each voxel, also labels that labels_present leaves out",
            found=smoothing,
            expected=0.0,
            fix="Use another loss for this dataset, such as loss=dice_ce.",
        )


def _of_share(loss: nn.Module, batch_size: int, trainer: pl.Trainer) -> nn.Module:
    """The loss of this process' share of a batch, such that the mean over all processes is the loss of the batch."""
    if batch_size % trainer.world_size == 0:
        return loss
    share = len(samples_of_rank(batch_size, trainer.global_rank, trainer.world_size))
    return _Weighted(loss, share * trainer.world_size / batch_size)


class _Weighted(nn.Module):
    def __init__(self, loss: nn.Module, weight: float) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight

    def forward(self, logits: Sequence[torch.Tensor], target: torch.Tensor, *distances: torch.Tensor) -> torch.Tensor:
        weighted: torch.Tensor = self.loss(logits, target, *distances) * self.weight
        return weighted
