"""3x3x3 convolutions with half the multiplications: Winograd's F(4, 3) along the first axis, for the CPU.

Computed directly, four neighbouring outputs of a 3-tap convolution take 12 multiplications. Winograd's scheme (Lavin
and Gray, "Fast algorithms for convolutional neural networks", 2016) takes six fixed combinations of the six inputs,
multiplies each by a combination of the taps, and combines the six products to the four outputs. Here the inputs are
whole slices: a convolution of D slices becomes six 2D convolutions of D / 4 slices each, which torch's kernels compute.
The combinations are products with 6x6 and 4x6 matrices. Everything is linear, so the backward pass uses their
transposes. In float32, results differ from the direct convolution by about 2e-6 of the largest output; the direct one
itself is off by 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from segflow.network.cpu.allocation import empty, empty_like

_TILE = 4
_INPUTS = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
)
"""Six combinations of the six input slices of a tile."""
_TAPS = torch.tensor(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
    + [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
    dtype=torch.float64,
)
"""Six combinations of the three taps."""
_OUTPUTS = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
)
"""The four output slices of a tile from its six products."""
_PLANES = 6
_MIN_CHANNELS = 32
"""Least number of channels. Combining costs grow with channels, multiplying with their square, so few do not pay."""
_MAX_SHARE = 0.6
"""Largest share of multiplications at which it pays. A last tile that overhangs wastes some."""
_MIN_SLICE = 2**12
"""Elements of an input slice below which many small products cost more than they save."""
_BLOCK_ELEMENTS = 2**21
"""Elements of input taken at a time, which limits the memory of the six planes (8 MB in float32, times 1.5)."""


def winograd_pays(shape: Sequence[int], weight: Sequence[int]) -> bool:
    """Whether a convolution with stride 1 is faster this way.

    Args:
        shape: (B, C, D, H, W) of the input. It never is for a 2D image.
        weight: (C', C, *kernel).
    """
    if len(shape) != 5 or tuple(weight[2:]) != (3, 3, 3) or min(weight[:2]) < _MIN_CHANNELS:
        return False
    depth, per_slice = shape[2], shape[1] * shape[3] * shape[4]
    return _PLANES * _tiles(depth) <= _MAX_SHARE * 3 * depth and per_slice >= _MIN_SLICE


def winograd_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3x3x3 convolution with stride 1 and padding 1.

    Args:
        x: float (B, C, D, H, W), preferably in channels-last memory, which the result has.
        weight: (C', C, 3, 3, 3).
        bias: (C',) or None.
    """
    result: Tensor = _WinogradConvolution.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


class _WinogradConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        source = _slices_first(x)
        y = empty((len(x), len(weight), *x.shape[2:]), x.dtype, torch.channels_last_3d)
        result = y.movedim(1, -1)
        taps = _combined_taps(weight)
        combine = _OUTPUTS.to(x.dtype)
        for sample, depths in _blocks(source):
            planes = _combined_inputs(source[sample], depths)
            products = empty((*planes.shape[:-1], weight.shape[0]), x.dtype)
            for product, plane, one in zip(products, planes, taps, strict=True):
                product.copy_(functional.conv2d(_images(plane), one, None, padding=1).permute(0, 2, 3, 1))
            out, flat = result[sample, depths].flatten(1), products.flatten(2)
            for tile in range(flat.shape[1]):
                rows = out[_TILE * tile : _TILE * (tile + 1)]
                torch.mm(combine[: len(rows)], flat[:, tile], out=rows)
        if bias is not None:
            result += bias
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        source, grad_result = _slices_first(x), _slices_first(grad)
        taps = _combined_taps(weight)
        needed = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], False)
        grad_source = empty_like(source) if needed[0] else None
        grad_taps = [torch.zeros_like(one) for one in taps]
        for sample, depths in _blocks(source):
            inputs = _combined_inputs(source[sample], depths)
            by_products = _split_outputs(grad_result[sample, depths])
            for index in range(_PLANES):
                by_input, by_taps, _ = torch.ops.aten.convolution_backward(
                    _images(by_products[index]), _images(inputs[index]), taps[index], None,
                    (1, 1), (1, 1), (1, 1), False, (0, 0), 1, needed,
                )  # fmt: skip
                if needed[0]:
                    inputs[index] = by_input.permute(0, 2, 3, 1)  # which are no longer needed
                if needed[1]:
                    grad_taps[index] += by_taps
            if grad_source is not None:
                _split_inputs(grad_source[sample], depths, inputs)
        return (
            None if grad_source is None else grad_source.movedim(-1, 1),
            _split_taps(grad_taps) if needed[1] else None,
            grad_result.sum((0, 1, 2, 3)) if ctx.has_bias and ctx.needs_input_grad[2] else None,
        )


def _tiles(length: int) -> int:
    return -(-length // _TILE)


def _slices_first(x: Tensor) -> Tensor:
    """(B, C, D, H, W) → contiguous (B, D, H, W, C), without a copy from channels-last memory."""
    return x.movedim(1, -1).contiguous()


def _images(slices: Tensor) -> Tensor:
    """(D, H, W, C) → (D, C, H, W) in channels-last memory."""
    return slices.permute(0, 3, 1, 2)


def _blocks(source: Tensor) -> Iterator[tuple[int, slice]]:
    """Sample and range of depths (whole tiles) that are computed together."""
    batch, depth = source.shape[:2]
    step = max(_BLOCK_ELEMENTS // (source[0, 0].numel() * _TILE), 1) * _TILE
    for sample in range(batch):
        for start in range(0, depth, step):
            yield sample, slice(start, min(start + step, depth))


def _tile_inputs(depth: int, depths: slice) -> Iterator[tuple[slice, slice]]:
    """For each tile the slices that it needs, as far as they exist, and their places among its six; others are 0."""
    for start in range(depths.start - 1, depths.stop - 1, _TILE):
        there = slice(max(start, 0), min(start + _PLANES, depth))
        yield there, slice(there.start - start, there.stop - start)


def _combined_inputs(source: Tensor, depths: slice) -> Tensor:
    """(D, H, W, C) → (6, tiles, H, W, C)."""
    matrix = _INPUTS.to(source.dtype)
    planes = empty((_PLANES, _tiles(depths.stop - depths.start), *source.shape[1:]), source.dtype)
    flat, out = source.flatten(1), planes.flatten(2)
    for tile, (there, columns) in enumerate(_tile_inputs(source.shape[0], depths)):
        torch.mm(matrix[:, columns], flat[there], out=out[:, tile])
    return planes


def _split_inputs(grad_source: Tensor, depths: slice, grad_planes: Tensor) -> None:
    """Transpose of `_combined_inputs`. Tiles overlap by two slices: the first tile writes, the next one adds."""
    matrix = _INPUTS.to(grad_source.dtype)
    flat, planes = grad_source.flatten(1), grad_planes.flatten(2)
    written = depths.start + 1 if depths.start else 0
    for tile, (there, columns) in enumerate(_tile_inputs(grad_source.shape[0], depths)):
        combine, plane, old = matrix[:, columns].T, planes[:, tile], written - there.start
        flat[there.start : written].addmm_(combine[:old], plane)
        torch.mm(combine[old:], plane, out=flat[written : there.stop])
        written = there.stop


def _split_outputs(grad: Tensor) -> Tensor:
    """(D, H, W, C') → (6, tiles, H, W, C'), the transpose of how products are combined."""
    matrix = _OUTPUTS.to(grad.dtype)
    planes = empty((_PLANES, _tiles(grad.shape[0]), *grad.shape[1:]), grad.dtype)
    flat, out = grad.flatten(1), planes.flatten(2)
    for tile in range(planes.shape[1]):
        rows = flat[_TILE * tile : _TILE * (tile + 1)]
        torch.mm(matrix[: len(rows)].T, rows, out=out[:, tile])
    return planes


def _combined_taps(weight: Tensor) -> list[Tensor]:
    """(C', C, 3, 3, 3) → six (C', C, 3, 3), channels-last."""
    planes = torch.einsum("pt,octyx->pocyx", _TAPS.to(weight.dtype), weight)
    return [plane.contiguous(memory_format=torch.channels_last) for plane in planes]


def _split_taps(grads: list[Tensor]) -> Tensor:
    """Transpose of `_combined_taps`."""
    return torch.einsum("pt,pocyx->octyx", _TAPS.to(grads[0].dtype), torch.stack(grads))
