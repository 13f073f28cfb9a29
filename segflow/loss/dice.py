"""The soft Dice loss, from sums over voxels (recipe 9.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

TINY = 1e-8
"""Smallest denominator, as in nnU-Net."""


def dice_loss(
    intersection: Tensor, predicted: Tensor, true: Tensor, *, smooth: float, batch_dice: bool, drop_background: bool
) -> Tensor:
    """Minus the mean soft Dice, (2 I + s) / max(P + G + s, 1e-8).

    Args:
        intersection, predicted, true: (B, K) sums over the voxels of each sample.
        smooth: Number added to numerator and denominator.
        batch_dice: Sum over the samples of all ranks before the ratio.
        drop_background: Leave class 0 out of the mean.
    """
    sums = torch.stack((intersection, predicted, true))
    if drop_background:
        sums = sums[:, :, 1:]
    if batch_dice:
        sums = sum_over_ranks(sums.sum(dim=1))
    intersection, predicted, true = sums
    dice = (2 * intersection + smooth) / (true + predicted + smooth).clamp_min(TINY)
    return -dice.mean()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all processes of distributed training, with its gradient; any shape. Else the values themselves."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return values
    result: Tensor = _SumOverRanks.apply(values)  # type: ignore[no-untyped-call]
    return result


class _SumOverRanks(torch.autograd.Function):
    """All-reduce in both passes, since every rank's loss depends on every rank's values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        distributed.all_reduce(total)
        return total
