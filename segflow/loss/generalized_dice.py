"""The generalised Dice loss (Sudre et al. 2017, arXiv:1707.03237)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.loss.dice import TINY, sum_over_ranks
from segflow.loss.probabilities import Probabilities


class GeneralizedDice(nn.Module):
    """``1 - (2 sum_k w_k I_k + s) / (sum_k w_k (P_k + G_k) + s)``, with weights ``w_k`` proportional to ``1 / G_k^2``.

    Small labels so count as much as large ones. Background is a label; all regions count. The largest weight is 1. A
    label that is absent takes the largest weight of the others. Voxels of the ignore label do not count.

    Args:
        labels: The dataset's label definition.
        batch_dice: Sum over the batch, and over all ranks, before the ratio; else one ratio per sample.
        smooth: Number added to numerator and denominator.

    Raises:
        SegflowError: The number is negative.
    """

    def __init__(self, labels: Labels, batch_dice: bool, *, smooth: float = 1e-5) -> None:
        super().__init__()
        if not 0 <= smooth < math.inf:
            raise SegflowError("loss: smooth of the generalised Dice loss must be a number from 0 on", found=smooth)
        self.probabilities = Probabilities(labels)
        self.batch_dice = batch_dice
        self.smooth = smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, *spatial) and label map (B, 1, *spatial) of any integer type → scalar."""
        sums = self.probabilities.sums(logits, target)
        if self.batch_dice:
            sums = sum_over_ranks(sums.sum(dim=1, keepdim=True))
        hits, predicted, true = sums
        absent = true == 0
        smallest = torch.where(absent, torch.inf, true).amin(1, keepdim=True)
        weights = torch.where(absent, 1.0, smallest / true.clamp_min(1)) ** 2
        above = 2 * (weights * hits).sum(1) + self.smooth
        below = (weights * (predicted + true)).sum(1) + self.smooth
        overlap: Tensor = (above / below.clamp_min(TINY)).mean()
        return 1 - overlap
