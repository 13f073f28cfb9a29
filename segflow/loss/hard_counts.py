"""Counts of hard predictions, for the pseudo-Dice during training (recipe 9.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from segflow.core.labels import Labels
from segflow.loss.targets import Targets


@torch.no_grad()
def hard_counts(
    logits: Tensor, target: Tensor, labels: Labels, *, present: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives over batch and space.

    Args:
        logits: (B, K, *spatial).
        target: Label map (B, 1, *spatial), any integer type. Voxels of the ignore label do not count.
        labels: The dataset's label definition.
        present: bool (B, F), whether a sample's label map tells of each of ``labels.foreground_keys``; others are not
            counted in it. None counts all.

    Returns:
        Three int64 (F,) tensors, one entry for each of ``labels.foreground_keys``. For labels the prediction is the
        highest output, for regions every output with a probability above 0.5.
    """
    if present is not None:
        samples = [hard_counts(logits[n : n + 1], target[n : n + 1], labels) for n in range(len(logits))]
        correct, excess, missed = (
            torch.stack([own * told for own, told in zip(of_one_kind, present.to(logits.device), strict=True)]).sum(0)
            for of_one_kind in zip(*samples, strict=True)
        )
        return correct, excess, missed
    targets = Targets(labels)
    label = target[:, 0]
    valid = targets.valid(label)
    if labels.has_regions:
        return _region_counts(logits > 0, targets.membership(label), valid)
    classes = logits.shape[1]
    index, predicted = targets.indices(label), logits.argmax(1)
    if logits.device.type != "cpu":
        return _class_counts(index, predicted, valid, classes)
    pairs = (index * classes + predicted).flatten() if valid is None else (index * classes + predicted)[valid]
    confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    correct = confusion.diagonal()
    return correct[1:], (confusion.sum(0) - correct)[1:], (confusion.sum(1) - correct)[1:]


def _class_counts(
    index: Tensor, predicted: Tensor, valid: Tensor | None, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The counts class by class. `bincount` and a selection of voxels would wait for the device."""
    counted = [index.masked_fill(index != predicted, -1), predicted, index]
    if valid is not None:
        counted = [values.masked_fill(~valid, -1) for values in counted]
    correct, found, wanted = (
        torch.stack([(values == which).sum() for which in range(1, classes)]) for values in counted
    )
    return correct, found - correct, wanted - correct


def _region_counts(predicted: Tensor, member: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if valid is not None:
        predicted = predicted & valid[:, None]
    axes = (0, *range(2, predicted.ndim))
    correct = (predicted & member).sum(axes)
    return correct, predicted.sum(axes) - correct, member.sum(axes) - correct
