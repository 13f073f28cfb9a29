"""The network with its loss, optimizer and pseudo-Dice as a Lightning module (recipe 9.2, 9.3)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.wording import some
from segflow.loss.hard_counts import hard_counts
from segflow.loss.partial_labels import marginal_logits
from segflow.network.cpu.samples import logits_side_by_side
from segflow.sampling.batch import PatchBatch, network_input
from segflow.training.device_augmentation import DeviceAugmentation
from segflow.training.optimization import Optimization

Tensor = torch.Tensor


class EpochValues(NamedTuple):
    """Values of an epoch, over all processes.

    Attributes:
        train_loss: Mean over the training batches with a finite loss.
        val_loss: Mean over the validation batches; None without validation.
        dice: Pseudo-Dice of each foreground label, NaN if neither reference nor prediction had it; None without
            validation.
    """

    train_loss: float
    val_loss: float | None
    dice: tuple[float, ...] | None

    @property
    def dice_mean(self) -> float:
        """Mean over the labels that occurred; NaN if none did."""
        occurred = [value for value in self.dice or () if not math.isnan(value)]
        return sum(occurred) / len(occurred) if occurred else math.nan


class SegmentationModule(pl.LightningModule):
    """Trains a network on patches.

    Losses and overlap counts are summed on the device and read once per epoch, so that no step waits for it.

    Args:
        network: Image (B, C, *patch) → list of logits (B, outputs, *patch of the level), finest first, or logits alone.
            Its parameters appear as ``network.…``.
        loss: List of logits, target (B, 1, …), distance maps (B, F, …) if it needs them → scalar.
        labels: The label definition.
        optimization: Optimizer and schedule.
        augmentation: Applied to training batches on the device; None if the workers augment.
        channel_mask: Whether the network is told which channels of a sample are there.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        labels: Labels,
        optimization: Optimization,
        *,
        augmentation: DeviceAugmentation | None = None,
        channel_mask: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.labels = labels
        self._optimization = optimization
        self.augmentation = augmentation
        self.channel_mask = channel_mask
        self._train_losses = _Sum(finite_only=True)  # steps with another loss are skipped (`LossGuard`)
        self._val_losses = _Sum()
        self._counts: Tensor | None = None

    def forward(self, image: Tensor) -> list[Tensor]:
        logits = logits_side_by_side(self.network, image)
        wanted = (len(image), self.labels.num_outputs, *image.shape[2:])
        if tuple(logits[0].shape) != wanted:
            raise SegflowError(
                "the network's logits do not fit the patch and the labels",
                found=list(logits[0].shape),
                expected=f"{list(wanted)}, as (batch, outputs, *patch), or a list that begins with it",
            )
        return logits

    def augmented(self, batch: PatchBatch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Image and target of a training batch as the network gets them. The same batch gives the same."""
        image, label = batch.image, batch.label
        if self.augmentation is not None:
            image, label = self.augmentation(image, label, epoch=self.current_epoch, index=batch_idx)
        return network_input(image, batch.channels_present, mask=self.channel_mask), label

    def training_step(self, batch: PatchBatch, batch_idx: int) -> Tensor:
        image, label = self.augmented(batch, batch_idx)
        loss: Tensor = self.loss(self._supervised(self(image), batch), label, *_maps(batch))
        self._train_losses.add(loss)
        return loss

    def validation_step(self, batch: PatchBatch, batch_idx: int) -> None:
        logits = self(network_input(batch.image, batch.channels_present, mask=self.channel_mask))
        self._val_losses.add(self.loss(self._supervised(logits, batch), batch.label, *_maps(batch)))
        found = hard_counts(logits[0], batch.label, self.labels, present=batch.labels_present)
        counts = torch.stack([c.to(torch.int64) for c in found])
        self._counts = counts if self._counts is None else self._counts + counts

    def _supervised(self, logits: list[Tensor], batch: PatchBatch) -> list[Tensor]:
        """The logits of which the batch's label maps tell something."""
        if batch.labels_present is None:
            return logits
        return marginal_logits(logits, batch.labels_present, regions=self.labels.has_regions)

    def train_loss_so_far(self) -> float | None:
        """Mean training loss of this epoch so far in this process; None without a value. It waits for the device."""
        return self._train_losses.mean()

    def take_epoch_values(self) -> EpochValues:
        """Values since the last call, reduced over all processes. Every process must call it."""
        train_loss = self._train_losses.take(self)
        if self._counts is None:
            return EpochValues(train_loss, None, None)
        true_positive, false_positive, false_negative = self.trainer.strategy.reduce(
            self._counts, reduce_op="sum"
        ).tolist()
        self._counts = None
        dice = tuple(
            2 * tp / (2 * tp + fp + fn) if tp + fp + fn else math.nan
            for tp, fp, fn in zip(true_positive, false_positive, false_negative, strict=True)
        )
        return EpochValues(train_loss, self._val_losses.take(self), dice)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Copy buffers that a forward pass changes, since the next one runs during writing (`WholeCheckpointIO`)."""
        for name, _ in self.named_buffers():
            if name in checkpoint["state_dict"]:
                checkpoint["state_dict"][name] = checkpoint["state_dict"][name].clone()  # it may be an average

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network with a short message, before torch writes a long one."""
        own, given = self.state_dict(), checkpoint["state_dict"]
        differing = [f"{name} is missing" for name in own if name not in given]
        differing += [f"{name} is unknown" for name in given if name not in own]
        differing += [
            f"{name} is {list(given[name].shape)} instead of {list(value.shape)}"
            for name, value in own.items()
            if name in given and given[name].shape != value.shape
        ]
        if differing:
            raise SegflowError(
                "the checkpoint to continue from was made for another network",
                found=some(differing, separator="; "),
                fix="Use another run_name, or start from its weights with training.initial_weights.",
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self._optimization.of(self.network)


def _maps(batch: PatchBatch) -> tuple[Tensor, ...]:
    return () if batch.distances is None else (batch.distances,)


class _Sum:
    """A mean that is summed on the device.

    Args:
        finite_only: Leave out values that are not finite.
    """

    def __init__(self, *, finite_only: bool = False) -> None:
        self._finite_only = finite_only
        self._total: Tensor | None = None
        self._count = 0
        self._left_out: Tensor | int = 0

    def add(self, value: Tensor) -> None:
        value = value.detach().float()
        if self._finite_only:
            is_number = value.isfinite()
            value = torch.where(is_number, value, torch.zeros_like(value))
            self._left_out = self._left_out + ~is_number
        self._total = value.clone() if self._total is None else self._total + value
        self._count += 1

    def mean(self) -> float | None:
        """The mean of this process so far."""
        count = self._count - int(self._left_out)
        return float(self._total / count) if self._total is not None and count else None

    def take(self, module: pl.LightningModule) -> float:
        if self._total is None:
            return math.nan
        count = self._count - int(self._left_out)
        mean = module.trainer.strategy.reduce(self._total / count, reduce_op="mean")
        self._total, self._count, self._left_out = None, 0, 0
        return float(mean)
