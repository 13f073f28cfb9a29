"""The clDice loss for tubes (Shit et al. 2021, arXiv:2003.07311)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.loss.dice import sum_over_ranks
from segflow.loss.probabilities import Probabilities
from segflow.loss.soft_skeleton import soft_skeleton


class ClDice(nn.Module):
    """``1 - 2 T S / (T + S)``, the mean over labels, with skeletons S_p and S_g of prediction p and truth g.

    ``T = (sum S_p g + s) / (sum S_p + s)`` is the share of the predicted skeleton within the truth,
    ``S = (sum S_g p + s) / (sum S_g + s)`` that of the true skeleton within the prediction. Background is left out; all
    regions count. Voxels of the ignore label belong to no structure. It acts on the finest resolution only, since thin
    structures are lost in coarser label maps.

    Args:
        labels: The dataset's label definition.
        batch_dice: Sum over the batch, and over all ranks, before the ratios; else one score per sample.
        iterations: Erosions of the soft skeleton. The radius of the thickest tube in voxels suffices.
        smooth: Number added to numerators and denominators.

    Raises:
        SegflowError: A number is out of range.
    """

    finest_only = True

    def __init__(self, labels: Labels, batch_dice: bool, *, iterations: int = 5, smooth: float = 1.0) -> None:
        super().__init__()
        if iterations < 1 or not 0 < smooth < math.inf:
            raise SegflowError(
                "loss: clDice needs at least one iteration, and smooth above 0",
                found=f"iterations={iterations}, smooth={smooth}",
            )
        self.probabilities = Probabilities(labels)
        self.batch_dice = batch_dice
        self.iterations = iterations
        self.smooth = smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, *spatial) and label map (B, 1, *spatial) of any integer type → scalar."""
        predicted, true, valid = self.probabilities.foreground(logits, target)
        if valid is not None:
            predicted = predicted * valid
        truth = true.to(predicted.dtype)
        with torch.no_grad():
            true_skeleton = soft_skeleton(truth, self.iterations)
        skeleton = soft_skeleton(predicted, self.iterations)
        axes = tuple(range(2, predicted.ndim))
        sums = torch.stack(
            [part.sum(axes) for part in (skeleton * truth, skeleton, true_skeleton * predicted, true_skeleton)]
        )
        if self.batch_dice:
            sums = sum_over_ranks(sums.sum(dim=1))
        sums = sums + self.smooth
        precision, sensitivity = sums[0] / sums[1], sums[2] / sums[3]
        return 1 - (2 * precision * sensitivity / (precision + sensitivity)).mean()
