"""Convolutions with a quarter of the multiplications: Winograd's F(4, 3) along two axes, for a CPU.

Computed directly, four neighbouring outputs of a 3-tap convolution take 12 multiplications. Winograd's scheme (Lavin
and Gray, "Fast algorithms for convolutional neural networks", 2016) takes six fixed combinations of the six inputs,
multiplies each by a combination of the taps, and combines the six products to the four outputs. Here it is nested:
along the depth and the height of a volume, or along the height of an image. The 36 or 6 planes of combined inputs are
each multiplied by three matrices, one for each tap along the width. All this is done by matrix products, block by block
(`segflow.network.cpu.winograd_blocks`). It is linear, so the gradients come from the transposed steps; that of the
input is again such a convolution. In float32, results differ from the exact convolution by about 1e-5 of the largest
output; the direct one is itself off by 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segflow.network.cpu.allocation import empty
from segflow.network.cpu.winograd_blocks import blocks, constant_plane, padded_share, tap_combinations
from segflow.network.memory_format import CHANNELS_LAST

_LARGEST_COST = 0.7
"""Share of the direct convolution's cost, as `winograd_pays` estimates it, up to which this one is faster."""
_COST_OF_WEIGHTS = 200
"""Combining the taps costs as much as the direct convolution of this many voxels."""
_COST_OF_COMBINING = 4
"""Combining the voxels of one channel costs as much as multiplying with this many channels."""


def winograd_pays(shape: Sequence[int], weight: Sequence[int]) -> bool:
    """Whether a convolution with stride 1 is faster this way.

    Args:
        shape: (B, C, *spatial) of the input, two or three spatial axes.
        weight: (C', C, *kernel).
    """
    kernel = tuple(weight[2:])
    voxels = math.prod((shape[0], *shape[2:]))
    if len(shape) != len(weight) or kernel not in ((3, 3, 3), (1, 3, 3), (3, 3)) or not voxels:
        return False
    depth_taps = _depth_taps(kernel)
    volume = (1, *shape[2:])[-3:]
    cost = padded_share(volume, depth_taps) + _COST_OF_WEIGHTS / voxels
    return cost + _COST_OF_COMBINING * (1 / weight[0] + 1 / weight[1]) <= _LARGEST_COST


def winograd_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution with stride 1 and padding that keeps the shape.

    Args:
        x: float (B, C, D, H, W) or (B, C, H, W), preferably in channels-last memory, which the result has.
        weight: (C', C, 3, 3, 3), (C', C, 1, 3, 3), or (C', C, 3, 3) for images.
        bias: (C',) or None.
    """
    result: Tensor = _WinogradConvolution.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _WinogradConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _convolve(grad, weight.flip(tuple(range(2, weight.ndim))).transpose(0, 1), None) if needs_x else None,
            _grad_of_weight(x, grad, weight.shape) if needs_weight else None,
            grad.sum((0, *range(2, grad.ndim))) if needs_bias and ctx.has_bias else None,
        )


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    depth_taps = _depth_taps(weight.shape[2:])
    y = empty((len(x), len(weight), *x.shape[2:]), x.dtype, CHANNELS_LAST[x.ndim])
    matrices = _combined_taps(weight)
    plane = constant_plane(depth_taps)
    for block, first in blocks(_volumes(x, depth_taps), _volumes(y, depth_taps), depth_taps):
        block.combine_inputs(first)
        torch.bmm(block.shifted[0], matrices[0], out=block.products)
        for shifted, matrix in zip(block.shifted[1:], matrices[1:], strict=True):
            torch.baddbmm(block.products, shifted, matrix, out=block.products)
        if bias is not None:
            block.products[plane] += bias
        block.combine_outputs(first)
    return y


def _grad_of_weight(x: Tensor, grad: Tensor, shape: Sequence[int]) -> Tensor:
    """(C', C, *kernel)."""
    outputs, inputs, *kernel = shape
    depth_taps = _depth_taps(kernel)
    combinations = tap_combinations(depth_taps, x.dtype)
    grads = torch.zeros(3, len(combinations), inputs, outputs, dtype=x.dtype)
    for block, first in blocks(_volumes(x, depth_taps), _volumes(grad, depth_taps), depth_taps):
        block.combine_inputs(first)
        of_products = block.split_outputs(first)
        for one, shifted in zip(grads, block.shifted, strict=True):
            torch.baddbmm(one, shifted.transpose(1, 2), of_products, out=one)
    taps = torch.mm(combinations.T, grads.transpose(0, 1).flatten(1))
    return taps.view(*kernel, inputs, outputs).movedim((-1, -2), (0, 1))


def _combined_taps(weight: Tensor) -> tuple[Tensor, ...]:
    """(C', C, *kernel) → for each tap along the width the matrices of all planes, (P, C, C')."""
    outputs, inputs, *kernel = weight.shape
    combinations = tap_combinations(_depth_taps(kernel), weight.dtype)
    taps = weight.movedim((0, 1), (-1, -2)).reshape(combinations.shape[1], -1)
    return torch.mm(combinations, taps).view(-1, 3, inputs, outputs).unbind(1)


def _volumes(x: Tensor, depth_taps: int) -> Tensor:
    """(B, C, D, H, W) → contiguous (B, D, H, W, C), or (B D, 1, H, W, C) if slices are convolved each by itself.

    Images (B, C, H, W) are such slices. It is not copied from channels-last memory.
    """
    volumes = x.movedim(1, -1).contiguous()
    return volumes if depth_taps == 3 else volumes.view(-1, 1, *volumes.shape[-3:])


def _depth_taps(kernel: Sequence[int]) -> int:
    return kernel[0] if len(kernel) == 3 else 1
