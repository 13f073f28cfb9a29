"""Cross entropy of the hardest voxels, and of regions (recipe 9.1, 16)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def top_k_cross_entropy(
    logits: Tensor, index: Tensor, valid: Tensor | None, *, percent: float, label_smoothing: float
) -> Tensor:
    """Mean cross entropy of the hardest voxels of the batch.

    Args:
        logits: (B, K, *spatial).
        index: int64 (B, *spatial), the true class.
        valid: bool (B, *spatial). Ignored voxels cost 0, but are counted in the total of the percentage.
        percent: Percentage of voxels to take.
        label_smoothing: Share of the target that is spread over all classes.
    """
    losses = functional.cross_entropy(logits.float(), index, reduction="none", label_smoothing=label_smoothing)
    if valid is not None:
        losses = losses * valid
    count = max(int(losses.numel() * percent / 100), 1)
    return torch.topk(losses.flatten(), count, sorted=False).values.mean()


def smoothed_cross_entropy(logits: Tensor, index: Tensor, valid: Tensor | None, label_smoothing: float) -> Tensor:
    """Mean cross entropy over the valid voxels with a smoothed target; 0 if none is valid.

    Args:
        logits: (B, K, *spatial).
        index: int64 (B, *spatial), the true class.
        valid: bool (B, *spatial); None if every voxel is valid.
        label_smoothing: Share of the target that is spread over all classes.
    """
    losses = functional.cross_entropy(logits.float(), index, reduction="none", label_smoothing=label_smoothing)
    return losses.mean() if valid is None else (losses * valid).sum() / valid.sum().clamp_min(1)


def region_cross_entropy(logits: Tensor, membership: Tensor, valid: Tensor | None) -> Tensor:
    """Binary cross entropy of sigmoid outputs.

    Args:
        logits: (B, R, *spatial).
        membership: bool (B, R, *spatial).
        valid: bool (B, *spatial). If given, the sum over all regions is divided by the number of valid voxels, so
            the result is R times the mean that is taken without it. nnU-Net does so (recipe 9.1), and the balance
            with the Dice loss depends on it.
    """
    target = membership.to(logits.dtype)
    if valid is None:
        return functional.binary_cross_entropy_with_logits(logits, target)
    losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (losses * valid[:, None]).sum() / valid.sum().clamp_min(1)
