"""Instance normalisation and the leaky ReLU after it, as one operation that stays in channels-last memory.

Torch's instance norm copies a channels-last tensor to contiguous memory and back. Its batch and group norms do not
copy, but they sum 90,000 voxels one by one in float32, which leaves four digits, or have a backward pass that takes ten
times as long. This file therefore builds both passes from elementwise operations and torch's sums. It takes a few
samples at a time, so that each operation finds its input in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from segflow.network.cpu.allocation import empty_like

_aten = torch.ops.aten
_CACHED_ELEMENTS = 2**17
"""Elements of a block: 512 kB in float32, so that two fit the second-level cache of common processors."""

Block = tuple[slice, slice, slice]
"""Index of samples, all channels, and slices along the first spatial axis."""


def instance_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, negative_slope: float = 1.0) -> Tensor:
    """Instance norm, then a leaky ReLU unless its slope is 1. All tensors are on the CPU and of one type.

    Args:
        x: (B, C, *spatial), in any memory format, which the result keeps.
        weight: (C,) scale.
        bias: (C,) shift.
        eps: Number added to the variance.
        negative_slope: Slope of the leaky ReLU below 0; positive.

    Returns:
        (B, C, *spatial).
    """
    result: Tensor = _InstanceNormLeakyReLU.apply(x, weight, bias, eps, negative_slope)  # type: ignore[no-untyped-call]
    return result


class _InstanceNormLeakyReLU(torch.autograd.Function):
    """Forward and backward pass.

    The backward pass needs the normalised values n. It computes them from the output, which the next layer keeps
    anyway, by undoing the activation and the learnt shift and scale. So the input need not be kept, which halves the
    memory of a training step. If that would lose digits, or without an activation, the input is kept instead.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, negative_slope: float) -> Tensor:
        y = empty_like(x)
        source, target = _with_rows(x, y)
        axes = tuple(range(2, source.ndim))
        scale, shift = _per_channel(weight, source.ndim), _per_channel(bias, source.ndim)
        means, inverse_stds = [], []
        for blocks in _blocks(source):
            mean, variance = _statistics([source[block] for block in blocks], axes)
            inverse_std = variance.add_(eps).rsqrt_()
            factor = scale * inverse_std
            constant = torch.addcmul(shift, mean, factor, value=-1)
            for block in blocks:
                out = torch.addcmul(constant, source[block], factor, out=target[block])
                if negative_slope != 1:
                    functional.leaky_relu_(out, negative_slope)
            means.append(mean)
            inverse_stds.append(inverse_std)
        kept = (
            x if negative_slope == 1 or not _invertible(weight, bias) else None,
            y if negative_slope != 1 else None,
        )
        ctx.save_for_backward(*kept, weight, bias, torch.cat(means), torch.cat(inverse_stds))
        ctx.negative_slope = negative_slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, means, inverse_stds = ctx.saved_tensors
        kept = y if x is None else x
        grad_x = empty_like(kept)
        source, activated, grad_out, target = _with_rows(kept, kept if y is None else y, grad_y, grad_x)
        axes = tuple(range(2, source.ndim))
        voxels = source[0, 0].numel()
        scale, shift = _per_channel(weight, source.ndim), _per_channel(bias, source.ndim)
        grad_bias, grad_weight = torch.zeros_like(scale), torch.zeros_like(scale)

        def grad_before_activation(block: Block) -> Tensor:
            if y is None:
                return grad_out[block]
            # y is positive exactly where the normalised value is, since the slope is
            grad: Tensor = _aten.leaky_relu_backward(grad_out[block], activated[block], ctx.negative_slope, True)
            return grad

        for blocks in _blocks(source):
            samples = blocks[0][0]
            r = inverse_stds[samples]
            # n is (values - centre) times factor; values are x, or y without its activation
            centre, factor = (shift, 1 / scale) if x is None else (means[samples], r)
            grad_sum, product_sum = torch.zeros_like(r), torch.zeros_like(r)
            for block in blocks:
                grad = grad_before_activation(block)
                grad_sum += grad.sum(axes, keepdim=True)
                # Without the activation, a negative y and its gradient change by inverse factors.
                other = grad_out[block] if x is None else grad
                product_sum += other.mul(source[block]).sum(axes, keepdim=True)
            product_sum = (product_sum - centre * grad_sum) * factor
            # grad_x = scale r (grad - mean(grad) - n mean(grad n)), sorted by grad, values and the rest.
            by_grad = scale * r
            by_values = by_grad * factor * product_sum / -voxels
            rest = by_grad * grad_sum / -voxels - by_values * centre
            for block in blocks:
                values = source[block]
                if x is None:
                    values = functional.leaky_relu(values, 1 / ctx.negative_slope)
                out = torch.addcmul(rest, grad_before_activation(block), by_grad, out=target[block])
                out.addcmul_(values, by_values)
            grad_bias += grad_sum.sum(0, keepdim=True)
            grad_weight += product_sum.sum(0, keepdim=True)
        return grad_x, grad_weight.view_as(weight), grad_bias.view_as(bias), None, None


def _statistics(blocks: Sequence[Tensor], axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each sample and channel, from blocks (N, C, …) that are read from memory once."""
    means, squares, counts = [], [], []
    for block in blocks:
        count = block[0, 0].numel()
        mean = block.sum(axes, keepdim=True).div_(count)
        squares.append((block - mean).square_().sum(axes, keepdim=True))
        means.append(mean)
        counts.append(count)
    if len(blocks) == 1:
        return means[0], squares[0].div_(counts[0])
    share = torch.tensor(counts, dtype=means[0].dtype).div_(sum(counts)).view(-1, *(1,) * means[0].ndim)
    of_blocks = torch.stack(means)
    mean = (of_blocks * share).sum(0)
    between = ((of_blocks - mean).square_() * share).sum(0)
    return mean, torch.stack(squares).sum(0).div_(sum(counts)).add_(between)


def _with_rows(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors (B, C, *spatial) as (B, C, voxels), or unchanged if that would copy one of them."""
    try:
        return tuple(tensor.view(*tensor.shape[:2], -1) for tensor in tensors)
    except RuntimeError:
        return tensors


def _invertible(weight: Tensor, bias: Tensor) -> bool:
    """Whether the output gives the normalised values within about 1e-5, for every channel."""
    return bool((weight.abs() > bias.abs() * 0.01 + 1e-6).all())


def _per_channel(values: Tensor, dims: int) -> Tensor:
    return values.view(1, -1, *(1,) * (dims - 2))


def _blocks(x: Tensor) -> Iterator[list[Block]]:
    """For each group of samples its blocks of slices, each small enough for the cache."""
    samples = max(_CACHED_ELEMENTS // x[0].numel(), 1)
    slices = max(_CACHED_ELEMENTS // x[:samples, :, 0].numel(), 1)
    for first in range(0, len(x), samples):
        group = slice(first, first + samples)
        yield [(group, slice(None), slice(start, start + slices)) for start in range(0, x.shape[2], slices)]
