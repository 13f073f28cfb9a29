"""Voxel grids: spacing, shape, axis order and boxes.

Spatial tuples follow the array axes (z, y, x). The order of a file format's own header (x, y, z) exists only in
``storage/image_formats``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError

ANISOTROPY_THRESHOLD = 3.0
"""A grid is anisotropic where its largest spacing exceeds its smallest by more than this factor (recipe 4.2)."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Placement of a voxel grid, as needed for arrays.

    Attributes:
        spacing: Distance of voxel centres along z, y, x in mm. The first entry of a 2D image is
            larger than the others (recipe 1.5), so that no rule resamples along that axis.
        header: Values with which the writer gives a file the same origin, direction and type. Plain JSON, which only
            ``storage/image_formats`` interprets.
    """

    spacing: tuple[float, float, float]
    header: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Box:
    """A half-open box of voxels: ``start[k] <= index < stop[k]`` along each axis.

    ``start`` may be negative and ``stop`` may lie beyond an array: such a box says how much padding it needs.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """The box that covers an array of this shape."""
        return cls(tuple(0 for _ in shape), tuple(int(n) for n in shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent in voxels along each axis."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index for the spatial axes of an array that contains the box."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def clip(self, shape: Sequence[int]) -> Box:
        """The part that lies within an array of this shape (possibly empty, never inverted)."""
        start = tuple(min(max(a, 0), n) for a, n in zip(self.start, shape, strict=True))
        stop = tuple(max(min(b, n), s) for b, n, s in zip(self.stop, shape, start, strict=True))
        return Box(start, stop)

    def padding(self, shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """Voxels (before, after) along each axis by which the box sticks out of an array of this shape."""
        inside = self.clip(shape)
        return tuple(
            (c - a, b - d) for a, b, c, d in zip(self.start, self.stop, inside.start, inside.stop, strict=True)
        )

    def moved(self, by: Sequence[int]) -> Box:
        """The box moved by so many voxels along each axis."""
        start, stop = (tuple(a + b for a, b in zip(side, by, strict=True)) for side in (self.start, self.stop))
        return Box(start, stop)

    def to_json(self) -> list[list[int]]:
        """``[[start, stop], …]`` per axis, as nnU-Net writes ``bbox_used_for_cropping``."""
        return [[int(a), int(b)] for a, b in zip(self.start, self.stop, strict=True)]

    @classmethod
    def from_json(cls, value: Sequence[Sequence[int]]) -> Box:
        """Inverse of `to_json`."""
        return cls(tuple(int(v[0]) for v in value), tuple(int(v[1]) for v in value))


def permute(values: Sequence[Any], axis_order: Sequence[int]) -> tuple[Any, ...]:
    """Reorder a spatial tuple: entry k of the result is ``values[axis_order[k]]``, as ``np.transpose`` does."""
    return tuple(values[axis] for axis in axis_order)


def invert_axis_order(axis_order: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes ``axis_order``."""
    return tuple(int(axis) for axis in np.argsort(np.asarray(axis_order)))


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target_spacing: Sequence[float]) -> tuple[int, ...]:
    """Voxels along each axis after resampling to another spacing, rounded half to even (recipe 4.1).

    Args:
        shape: Voxels along each axis.
        spacing: Present spacing in mm, in the same axis order.
        target_spacing: Target spacing in mm, in the same axis order.

    Raises:
        SegflowError: The result would not be a number.
    """
    try:
        lengths = [float(s) / float(t) * int(n) for n, s, t in zip(shape, spacing, target_spacing, strict=True)]
    except ArithmeticError:
        lengths = [math.inf]
    if not all(math.isfinite(n) for n in lengths):
        raise SegflowError(
            "the spacing cannot be resampled", found=f"{list(spacing)} mm", expected=f"about {list(target_spacing)} mm"
        )
    return tuple(round(n) for n in lengths)
