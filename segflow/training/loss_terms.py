"""The terms of a blended loss during a training: their weights by its progress, and their values in the report."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from segflow.core.errors import SegflowError
from segflow.loss.blend import Blend
from segflow.loss.deep_supervision import DeepSupervisionLoss
from segflow.loss.distance_maps import DistanceMaps, distance_unit_of
from segflow.training.monitor import EpochReport
from segflow.training.schedule import EpochSchedule
from segflow.training.time_budget import TimeBudget
from segflow.training.training_job import TrainingJob

WEIGHT, TRAIN, VAL = "loss_weight/", "train/loss/", "val/loss/"
"""Prefixes of the tags of a term: its weight, and its value before weighting in training and validation batches."""


class LossTerms(Callback):
    """Sets the weights of a blended loss, and reports them at the end of each epoch with the values of the terms.

    The share of the training that is over comes from the schedule of the learning rate, which a checkpoint restores:
    it changes with each epoch, and within a time budget with each step. All processes have the same. With another loss
    nothing is done.

    Args:
        report: Keeps the curves.
    """

    def __init__(self, report: EpochReport) -> None:
        self._report = report
        self._blend: Blend | None = None
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(()))

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        loss = own_loss(pl_module.loss)
        self._blend = loss if isinstance(loss, Blend) else None

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._blend is not None:
            self._blend.share = share_done(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._add(TRAIN)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._add(VAL)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._blend is None:
            return
        row = {f"{WEIGHT}{name}": weight for name, weight in self._blend.weights_now.items()}
        for tag in sorted(self._sums):
            both = trainer.strategy.reduce(torch.stack((self._sums[tag], self._counts[tag])), reduce_op="sum").tolist()
            row[tag] = both[0] / both[1] if both[1] else float("nan")
        self._sums.clear()
        self._counts.clear()
        self._report.add(row)

    def _add(self, prefix: str) -> None:
        """Sum the terms of the last batch, on the device. A value that is not finite belongs to a skipped step."""
        for name, value in self._blend.last.items() if self._blend is not None else ():
            tag, value = f"{prefix}{name}", value.float()
            counts = value.isfinite()
            self._sums[tag] = self._sums.get(tag, torch.zeros_like(value)) + torch.where(counts, value, 0.0)
            self._counts[tag] = self._counts[tag].to(value.device) + counts


def share_done(trainer: pl.Trainer) -> float:
    """Share of the training, from 0 to 1, that is over before this step; the same in all processes."""
    schedule = trainer.lr_scheduler_configs[0].scheduler if trainer.lr_scheduler_configs else None
    if isinstance(schedule, EpochSchedule):
        share = schedule.place / schedule.planned_epochs
    else:  # a schedule of the user's own does not know of a time budget
        share = trainer.current_epoch / max(trainer.max_epochs or 1, 1)
        budget = next((one for one in trainer.callbacks if isinstance(one, TimeBudget)), None)  # type: ignore[attr-defined]
        if budget is not None:
            share = max(share, trainer.strategy.broadcast(budget.used / budget.seconds))
    return min(max(share, 0.0), 1.0)


def distance_maps(job: TrainingJob, loss: nn.Module) -> DistanceMaps | None:
    """What makes the distance maps that a training's loss asks for; None if it asks for none.

    Raises:
        SegflowError: Batches are to be augmented on the device, where there is nothing to make maps with.
    """
    unit = distance_unit_of(own_loss(loss))
    if unit is None:
        return None
    if job.settings.augmentation_device == "device":
        raise SegflowError(
            "the loss needs distance maps, which the data workers make of augmented patches",
            found="training.augmentation_device=device",
            fix="Set training.augmentation_device=cpu, or choose a loss without distances, such as loss=tversky_ce.",
        )
    plan = job.record.plan
    return DistanceMaps(job.record.dataset.labels, plan.spacing[-len(plan.patch_size) :] if unit == "mm" else None)


def term_tags(loss: nn.Module, *, validation: bool) -> list[str]:
    """Tags of the terms of a blended loss; empty for another loss."""
    blend = own_loss(loss)
    if not isinstance(blend, Blend):
        return []
    prefixes = (WEIGHT, TRAIN, *([VAL] if validation else []))
    return [f"{prefix}{name}" for prefix in prefixes for name in blend.losses]


def own_loss(loss: nn.Module) -> nn.Module:
    """The loss that the settings name, within what the training wraps it in."""
    while not isinstance(loss, DeepSupervisionLoss) and isinstance(getattr(loss, "loss", None), nn.Module):
        loss = loss.loss  # type: ignore[assignment]
    return loss.loss if isinstance(loss, DeepSupervisionLoss) else loss
