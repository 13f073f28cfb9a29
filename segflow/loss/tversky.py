"""The Tversky loss (Salehi et al. 2017, arXiv:1706.05721), and focal (Abraham and Khan 2018, arXiv:1810.07842)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.loss.dice import TINY, sum_over_ranks
from segflow.loss.probabilities import Probabilities

LEAST = 1e-7
"""Smallest 1 - T, below which a root of it has no gradient."""


class Tversky(nn.Module):
    """Mean over labels of ``(1 - T)^(1 / gamma)`` with ``T = (TP + s) / (TP + alpha FP + beta FN + s)``.

    Background is left out; all regions count. Voxels of the ignore label do not count. ``alpha = beta = 0.5`` gives 1
    minus the soft Dice.

    Args:
        labels: The dataset's label definition.
        batch_dice: Sum over the batch, and over all ranks, before the ratio; else one ratio per sample.
        alpha: Weight of false positives.
        beta: Weight of false negatives; above alpha it raises sensitivity.
        gamma: Above 1, labels with a small overlap count more (focal Tversky, where 4/3 is proposed).
        smooth: Number added to numerator and denominator.

    Raises:
        SegflowError: A number is out of range.
    """

    def __init__(
        self,
        labels: Labels,
        batch_dice: bool,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 1.0,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        factors = (alpha, beta, smooth)
        if not (all(0 <= number < math.inf for number in factors) and alpha + beta > 0 and 0 < gamma < math.inf):
            raise SegflowError(
                "loss: numbers of the Tversky loss are out of range",
                found=f"alpha={alpha}, beta={beta}, gamma={gamma}, smooth={smooth}",
                expected="none negative, one of alpha and beta above 0, and gamma above 0",
            )
        self.probabilities = Probabilities(labels)
        self.batch_dice = batch_dice
        self.alpha, self.beta, self.gamma, self.smooth = alpha, beta, gamma, smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, *spatial) and label map (B, 1, *spatial) of any integer type → scalar."""
        sums = self.probabilities.sums(logits, target)
        if not self.probabilities.has_regions:
            sums = sums[:, :, 1:]
        if self.batch_dice:
            sums = sum_over_ranks(sums.sum(dim=1))
        hits, predicted, true = sums
        wrong = self.alpha * (predicted - hits) + self.beta * (true - hits)
        missing = 1 - (hits + self.smooth) / (hits + wrong + self.smooth).clamp_min(TINY)
        if self.gamma != 1:
            missing = missing.clamp_min(LEAST) ** (1 / self.gamma)
        mean: Tensor = missing.mean()
        return mean
