"""From logits to what losses compare: probabilities and membership of each foreground output, or their sums."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from segflow.core.labels import Labels
from segflow.loss.class_sums import class_sums
from segflow.loss.targets import Targets


class Foreground(NamedTuple):
    """The outputs for foreground: all labels but background, or all regions.

    Attributes:
        predicted: float32 (B, F, *spatial), probabilities by softmax (labels) or sigmoid (regions).
        true: bool (B, F, *spatial), False for ignored voxels.
        valid: bool (B, 1, *spatial), False for ignored voxels; None if all are supervised.
    """

    predicted: Tensor
    true: Tensor
    valid: Tensor | None


class Probabilities(nn.Module):
    """Softmax for labels, sigmoid for regions.

    Args:
        labels: The dataset's label definition.
    """

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.targets = Targets(labels)
        self.has_regions = labels.has_regions

    def foreground(self, logits: Tensor, target: Tensor) -> Foreground:
        """logits (B, K, *spatial) and label map (B, 1, *spatial) → the foreground of both."""
        logits, label = _exact(logits), target[:, 0]
        valid = self.targets.valid(label)
        mask = None if valid is None else valid[:, None]
        if self.has_regions:
            return Foreground(logits.sigmoid(), self.targets.membership(label), mask)
        index = self.targets.indices(label)
        true = torch.stack([index == k for k in range(1, logits.shape[1])], dim=1)
        return Foreground(logits.softmax(1)[:, 1:], true, mask)

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sums over the supervised voxels of each sample.

        Args:
            logits: (B, K, *spatial).
            target: Label map (B, 1, *spatial).

        Returns:
            (3, B, K): sum of p over the voxels of the class or region, sum of p, and their number.
        """
        label = target[:, 0]
        if not self.has_regions:
            return torch.stack(class_sums(logits, self.targets.indices(label), self.targets.valid(label))[:3])
        predicted, true, valid = self.foreground(logits, target)
        if valid is not None:
            predicted = predicted * valid
        axes = tuple(range(2, predicted.ndim))
        number = true.sum(axes, dtype=predicted.dtype)
        return torch.stack(((predicted * true).sum(axes), predicted.sum(axes), number))


def _exact(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
