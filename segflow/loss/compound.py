"""The sum of Dice and cross entropy, for labels and for regions (recipe 9.1)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.loss.class_sums import class_sums
from segflow.loss.cross_entropy import region_cross_entropy, smoothed_cross_entropy, top_k_cross_entropy
from segflow.loss.dice import dice_loss
from segflow.loss.targets import Targets


class DiceCrossEntropy(nn.Module):
    """Weighted sum of the soft Dice loss and of cross entropy.

    Labels use softmax, and Dice leaves background out. Regions use sigmoid and binary cross entropy, and Dice takes all
    of them. Voxels of the ignore label count in neither loss.

    Args:
        labels: The dataset's label definition.
        batch_dice: Sum over the batch, and over all ranks, before the Dice ratio; else one ratio per sample.
        dice_weight: Factor of the Dice loss; 0 leaves it out.
        cross_entropy_weight: Factor of the cross entropy; 0 leaves it out.
        smooth: Number added to numerator and denominator of the Dice ratio.
        top_k_percent: Percentage of hardest voxels over which cross entropy is taken; None takes all voxels.
        label_smoothing: Share of the cross entropy's target that is spread over all classes.

    Raises:
        SegflowError: A number is out of range, or an option for labels is given with regions.
    """

    def __init__(
        self,
        labels: Labels,
        batch_dice: bool,
        *,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        smooth: float = 1e-5,
        top_k_percent: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        numbers = (dice_weight, cross_entropy_weight, smooth)
        if not all(0 <= number < math.inf for number in numbers) or dice_weight + cross_entropy_weight == 0:
            raise SegflowError(
                "loss: weights and smooth must be numbers from 0 on, and one weight must be positive",
                found=f"dice_weight={dice_weight}, cross_entropy_weight={cross_entropy_weight}, smooth={smooth}",
            )
        if top_k_percent is not None and not 0 < top_k_percent <= 100:
            raise SegflowError("loss: top_k_percent must lie between 0 and 100", found=top_k_percent)
        if not 0 <= label_smoothing < 1:
            raise SegflowError("loss: label_smoothing must lie in [0, 1)", found=label_smoothing)
        if labels.has_regions and (top_k_percent is not None or label_smoothing):
            raise SegflowError(
                "loss: top_k_percent and label_smoothing are defined for labels, and this dataset has regions",
                fix="Use loss=dice_ce.",
            )
        self.targets = Targets(labels)
        self.has_regions = labels.has_regions
        self.batch_dice = batch_dice
        self.dice_weight = dice_weight
        self.cross_entropy_weight = cross_entropy_weight
        self.smooth = smooth
        self.top_k_percent = top_k_percent
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, *spatial) and label map (B, 1, *spatial) of any integer type → scalar."""
        label = target[:, 0]
        valid = self.targets.valid(label)
        if self.has_regions:
            return self._regions(logits, self.targets.membership(label), valid)
        return self._labels(logits, self.targets.indices(label), valid)

    def _labels(self, logits: Tensor, index: Tensor, valid: Tensor | None) -> Tensor:
        terms: list[Tensor] = []
        plain = self.top_k_percent is None and self.label_smoothing == 0
        if self.dice_weight or plain:
            intersection, predicted, true, cross_entropy = class_sums(logits, index, valid)
        if self.dice_weight:
            terms.append(self.dice_weight * self._dice(intersection, predicted, true))
        if self.cross_entropy_weight:
            if self.top_k_percent is not None:
                mean = top_k_cross_entropy(
                    logits, index, valid, percent=self.top_k_percent, label_smoothing=self.label_smoothing
                )
            elif self.label_smoothing:
                mean = smoothed_cross_entropy(logits, index, valid, self.label_smoothing)
            else:
                count = index.numel() if valid is None else valid.sum().clamp_min(1)
                mean = cross_entropy.sum() / count
            terms.append(self.cross_entropy_weight * mean)
        return sum(terms[1:], terms[0])

    def _regions(self, logits: Tensor, membership: Tensor, valid: Tensor | None) -> Tensor:
        logits = logits.float()
        terms: list[Tensor] = []
        if self.dice_weight:
            axes = tuple(range(2, logits.ndim))
            probabilities = logits.sigmoid()
            if valid is not None:
                probabilities = probabilities * valid[:, None]
            terms.append(
                self.dice_weight
                * self._dice(
                    (probabilities * membership).sum(axes),
                    probabilities.sum(axes),
                    membership.sum(axes, dtype=logits.dtype),  # ignored voxels belong to no region
                )
            )
        if self.cross_entropy_weight:
            terms.append(self.cross_entropy_weight * region_cross_entropy(logits, membership, valid))
        return sum(terms[1:], terms[0])

    def _dice(self, intersection: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        return dice_loss(
            intersection,
            predicted,
            true,
            smooth=self.smooth,
            batch_dice=self.batch_dice,
            drop_background=not self.has_regions,
        )
