"""Sums over voxels for Dice and cross entropy, as one operation with its own gradient.

With torch's operations, softmax, one-hot target, products and their gradients would hold a dozen tensors of the size of
the logits. Here the forward pass keeps only the probabilities, and there is no one-hot tensor. The rest, such as the
Dice ratio and its sum over ranks, is ordinary autograd on (B, K) numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def class_sums(logits: Tensor, index: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums over the voxels of each sample, with p the softmax of the logits over the classes.

    Args:
        logits: (B, K, *spatial), any float type; sums are float32 (float64 for float64).
        index: int64 (B, *spatial), the true class.
        valid: bool (B, *spatial), False for voxels that do not count. None counts all.

    Returns:
        intersection: (B, K), sum of p over the voxels of the class.
        predicted: (B, K), sum of p.
        true: (B, K), number of voxels of the class; without gradient.
        cross_entropy: (B,), sum of -log p of the true class.
    """
    flat = logits.flatten(2)
    if flat.dtype != torch.float64:
        flat = flat.float()
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _ClassSums.apply(  # type: ignore[no-untyped-call]
        flat, index.flatten(1), None if valid is None else valid.flatten(1)
    )
    return result


class _ClassSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor, valid: Tensor | None) -> tuple[Tensor, ...]:
        classes = logits.shape[1]
        log_p = torch.log_softmax(logits, dim=1)
        log_p_true = log_p.gather(1, index[:, None])[:, 0]
        p = log_p.exp_()
        p_true = log_p_true.exp()
        if valid is not None:
            p.mul_(valid[:, None])
            p_true.mul_(valid)
            log_p_true = log_p_true * valid
        masks = [(index == k) if valid is None else (index == k).logical_and_(valid) for k in range(classes)]
        intersection = torch.stack([(p_true * mask).sum(1) for mask in masks], dim=1)
        true = torch.stack([mask.sum(1, dtype=p.dtype) for mask in masks], dim=1)
        ctx.save_for_backward(p, p_true, index, valid)
        ctx.mark_non_differentiable(true)
        return intersection, p.sum(2), true, -log_p_true.sum(1)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_intersection: Tensor, by_predicted: Tensor, _true: Tensor, by_cross_entropy: Tensor
    ) -> tuple[Tensor | None, ...]:
        p, p_true, index, valid = ctx.saved_tensors
        # Let g be the gradient by p: by_predicted, and by_intersection on top at the true class. The softmax turns it
        # into p (g - sum_k p_k g_k); cross entropy adds p, and takes 1 off at the true class.
        at_true = by_intersection.gather(1, index).mul_(p_true)
        with torch.autocast(p.device.type, enabled=False):  # autocast would round the probabilities
            mean_gradient = torch.bmm(by_predicted[:, None], p).add_(at_true[:, None])
        grad = (by_predicted + by_cross_entropy[:, None])[:, :, None] - mean_gradient
        grad.mul_(p)
        at_true = at_true.sub_(by_cross_entropy[:, None])
        if valid is not None:
            at_true.mul_(valid)
        grad.scatter_add_(1, index[:, None], at_true[:, None])
        return grad, None, None
