"""Strides and kernels of a U-Net for a patch (recipe 3.5, function T)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SPACING_RATIO = 2.0
"""Axes are pooled together, and get a kernel of 3, while their spacings differ by less than this factor."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """Strides and kernels for one patch size.

    Attributes:
        strides: One entry per level; all ones at level 0.
        kernel_sizes: One entry per level.
        patch_size: The patch, each axis enlarged to the next multiple of ``divisor``.
        divisor: Product of the strides along each axis.
    """

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    patch_size: tuple[int, ...]
    divisor: tuple[int, ...]

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.strides)


def plan_pooling(
    spacing: Sequence[float], patch_size: Sequence[float], min_edge_length: int, most_levels: int | None = None
) -> Pooling:
    """Pool the axes with the finest spacing until feature maps get too small.

    Args:
        spacing: mm, 2 or 3 entries in plan axes.
        patch_size: Voxels along the same axes; may be fractions, such as a median shape.
        min_edge_length: Feature maps keep at least this many voxels along a pooled axis.
        most_levels: Resolutions at most; None does not limit them.
    """
    axes = range(len(spacing))
    spacing_now, size_now = [float(s) for s in spacing], [float(n) for n in patch_size]
    divisor, kernel = [1] * len(axes), [1] * len(axes)
    strides: list[tuple[int, ...]] = [(1,) * len(axes)]
    kernels: list[tuple[int, ...]] = []
    while len(strides) != most_levels and (chosen := _axes_to_pool(spacing_now, size_now, min_edge_length)):
        finest = min(spacing_now)
        # An axis keeps a kernel of 3 once it has one, even if pooling the others makes it the coarsest again.
        kernel = [3 if k == 3 or s / finest < SPACING_RATIO else 1 for k, s in zip(kernel, spacing_now, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in chosen else 1 for axis in axes))
        for axis in chosen:
            spacing_now[axis] *= 2
            size_now[axis] = math.ceil(size_now[axis] / 2)
            divisor[axis] *= 2
    kernels.append((3,) * len(axes))
    return Pooling(tuple(strides), tuple(kernels), _padded(patch_size, divisor), tuple(divisor))


def fixed_pooling(strides: Sequence[int], patch_size: Sequence[float]) -> Pooling:
    """The same strides along all axes, whatever their spacing.

    Args:
        strides: Stride of each level, finest first.
        patch_size: Voxels along 2 or 3 axes; may be fractions.
    """
    dims = len(patch_size)
    divisor = (math.prod(strides),) * dims
    return Pooling(
        tuple((stride,) * dims for stride in strides),
        ((3,) * dims,) * len(strides),
        _padded(patch_size, divisor),
        divisor,
    )


def _padded(patch_size: Sequence[float], divisor: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.ceil(n / d) * d for n, d in zip(patch_size, divisor, strict=True))


def _axes_to_pool(spacing: Sequence[float], size: Sequence[float], min_edge_length: int) -> list[int]:
    large = [axis for axis in range(len(size)) if size[axis] >= 2 * min_edge_length]
    if not large:
        return []
    finest = min(spacing[axis] for axis in large)
    chosen = [axis for axis in large if spacing[axis] / finest < SPACING_RATIO]
    # A level that pools a single axis needs more voxels along it.
    if len(chosen) == 1 and size[chosen[0]] < 3 * min_edge_length:
        return []
    return chosen
