"""Losses that weigh voxels by their distance to the true surface, which the loader measures (`distance_maps`).

With phi the signed distance of a voxel to the surface of a label in the patch, negative inside, p the predicted
probability and g the truth.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.loss.dice import sum_over_ranks
from segflow.loss.distance_maps import distance_unit_of
from segflow.loss.probabilities import Foreground, Probabilities


class SurfaceLoss(nn.Module):
    """Base of the losses that need distance maps.

    Background is left out; all regions count. Voxels of the ignore label do not count. A label that is absent from the
    patch, or that fills it, has no surface there, and adds nothing. The losses act on the finest resolution only.

    Args:
        labels: The dataset's label definition.
        batch_dice: Sum over the batch, and over all ranks, before a ratio; else one ratio per sample.
        distance_unit: Unit of the distances: ``voxels``, or ``mm`` by the spacing of the plan.

    Raises:
        SegflowError: The unit is unknown.
    """

    finest_only = True

    def __init__(self, labels: Labels, batch_dice: bool, *, distance_unit: str = "voxels") -> None:
        super().__init__()
        self.probabilities = Probabilities(labels)
        self.batch_dice = batch_dice
        self.distance_unit = distance_unit
        distance_unit_of(self)

    def forward(self, logits: Tensor, target: Tensor, distances: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (B, K, *spatial).
            target: Label map (B, 1, *spatial) of any integer type.
            distances: float32 (B, F, *spatial), phi of each foreground label or region.

        Raises:
            SegflowError: The distances have another shape.
        """
        foreground = self.probabilities.foreground(logits, target)
        if distances.shape != foreground.predicted.shape:
            raise SegflowError(
                f"loss: the distance maps do not fit {type(self).__name__}",
                found=list(distances.shape),
                expected=list(foreground.predicted.shape),
            )
        if foreground.valid is not None:
            distances = distances * foreground.valid
        return self._measured(foreground, distances.to(foreground.predicted.dtype))

    @abstractmethod
    def _measured(self, foreground: Foreground, distances: Tensor) -> Tensor:
        """The loss; ``distances`` are 0 for voxels that do not count."""


class Boundary(SurfaceLoss):
    """The boundary loss (Kervadec et al. 2019, arXiv:1812.07032): the mean of ``phi p``.

    It is negative for a good prediction. It does not suffice alone where a label is often absent, so blend it with
    Dice or cross entropy.
    """

    def _measured(self, foreground: Foreground, distances: Tensor) -> Tensor:
        return _mean(distances * foreground.predicted, foreground.valid)


class Hausdorff(SurfaceLoss):
    """The mean of ``(p - g)^2 |phi|^exponent``: Karimi and Salcudean 2019 (arXiv:1904.10030), one-sided.

    One-sided: distances to the true surface only, not to the predicted one, which would have to be measured in each
    step.

    Args:
        labels: The dataset's label definition.
        batch_dice: Not used, since the mean is always over the batch.
        distance_unit: Unit of the distances: ``voxels``, or ``mm`` by the spacing of the plan.
        exponent: Above 0; larger values count far errors more.

    Raises:
        SegflowError: The unit is unknown, or the exponent not positive.
    """

    def __init__(
        self, labels: Labels, batch_dice: bool, *, distance_unit: str = "voxels", exponent: float = 2.0
    ) -> None:
        super().__init__(labels, batch_dice, distance_unit=distance_unit)
        if not 0 < exponent < math.inf:
            raise SegflowError("loss: exponent of the Hausdorff loss must be a positive number", found=exponent)
        self.exponent = exponent

    def _measured(self, foreground: Foreground, distances: Tensor) -> Tensor:
        error = foreground.predicted - foreground.true.to(distances.dtype)
        weight = distances.square() if self.exponent == 2 else distances.abs() ** self.exponent
        return _mean(error.square() * weight, foreground.valid)


class GeneralizedSurface(SurfaceLoss):
    """The generalised surface loss (Celaya et al. 2023, arXiv:2302.03868).

    The mean over labels of ``1 - sum (phi (1 - p - g))^2 / sum phi^2``, from 0 for a perfect prediction to 1 for the
    opposite, whatever the unit and the size of the patch.
    """

    def _measured(self, foreground: Foreground, distances: Tensor) -> Tensor:
        axes = tuple(range(2, distances.ndim))
        weight = distances.square()
        agreement = (1 - foreground.predicted - foreground.true.to(distances.dtype)).square()
        sums = torch.stack(((weight * agreement).sum(axes), weight.sum(axes)))
        if self.batch_dice:
            sums = sum_over_ranks(sums.sum(dim=1))
        agreed, whole = sums
        has_surface = whole > 0
        missing = torch.where(has_surface, 1 - agreed / torch.where(has_surface, whole, 1.0), 0.0)
        mean: Tensor = missing.sum() / has_surface.sum().clamp_min(1)
        return mean


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over samples, labels and supervised voxels."""
    if valid is None:
        return values.mean()
    return values.sum() / (valid.sum().clamp_min(1) * values.shape[1])
