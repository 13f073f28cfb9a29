"""Resampling of many-channel arrays on a CPU, a few target slices at a time, so that no full-size channel exists.

Work goes plane by plane, which fits into the cache, and without threads of libraries, which would wait for those of a
network that computes at the same time. Slabs are independent of each other, so callers may run them on their own
threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from segflow.core.errors import SegflowError
from segflow.preprocessing.interpolation import linear_taps, nearest_indices
from segflow.preprocessing.resampling import Interpolation

_SLAB_VOXELS = 2**22
_HALF_PRECISION = np.float32(2**13 + 1)

Range = tuple[int, int]


class SlabResampler:
    """Resamples channels of an array to a new shape, slab by slab.

    Args:
        array: float16 or float32 (K, Z, Y, X).
        new_shape: Voxels along z, y, x after resampling.
        interpolation: Of order 0 or 1; None if the plan does not resample.

    Raises:
        SegflowError: The plan asks for another order, or for no resampling between different grids.
    """

    def __init__(self, array: np.ndarray, new_shape: Sequence[int], interpolation: Interpolation | None) -> None:
        self._array = array
        self._new_shape = tuple(int(n) for n in new_shape)
        orders = axis_orders(array.shape[1:], self._new_shape, interpolation)
        self._axes = [_Axis(n, m, order) for n, m, order in zip(array.shape[1:], new_shape, orders, strict=True)]

    def slabs(self) -> list[Range]:
        """Ranges of target slices, one per slab."""
        plane = self._new_shape[1] * self._new_shape[2]
        rows = max(1, _SLAB_VOXELS // plane)
        return [(start, min(start + rows, self._new_shape[0])) for start in range(0, self._new_shape[0], rows)]

    def channel(self, index: int, slab: Range) -> Iterator[np.ndarray]:
        """One channel's values, float32 (Y, X), for each target slice of a slab.

        They are rounded to the array's type (recipe 11.5) and must not be written into.
        """
        through, rows, columns = self._axes
        first, last = through.source_range(*slab)
        planes = [
            rows.interpolate(columns.interpolate(plane.astype(np.float32, copy=False), axis=1), axis=0)
            for plane in self._array[index, first:last]
        ]
        for number in range(*slab):
            values = through.between(planes, first, number)
            yield _in_half_precision(values) if self._array.dtype == np.float16 else values


class _Axis:
    """Interpolation along one axis."""

    def __init__(self, size: int, new_size: int, order: int) -> None:
        self._same = size == new_size
        self._linear = order == 1 and not self._same
        if order == 1:
            self._low, self._high, weight = linear_taps(size, new_size)
        else:
            self._low = self._high = nearest_indices(size, new_size)
            weight = np.zeros(new_size)
        self._weight = weight.astype(np.float32)

    def source_range(self, start: int, stop: int) -> Range:
        """Source indices that these target indices are computed from."""
        return (start, stop) if self._same else (int(self._low[start]), int(self._high[stop - 1]) + 1)

    def interpolate(self, plane: np.ndarray, *, axis: int) -> np.ndarray:
        """All target rows (axis 0) or columns (axis 1) of a plane."""
        if self._same:
            return plane
        low = np.take(plane, self._low, axis=axis)
        if not self._linear:
            return low
        step = np.take(plane, self._high, axis=axis)
        step -= low
        step *= self._weight[:, None] if axis == 0 else self._weight
        low += step
        return low

    def between(self, planes: Sequence[np.ndarray], first: int, number: int) -> np.ndarray:
        """Target slice ``number``. ``planes`` are source slices from index ``first`` on."""
        low: np.ndarray = planes[self._low[number] - first]
        if not self._linear or self._weight[number] == 0:
            return low
        high = planes[self._high[number] - first]
        values: np.ndarray = high - low
        values *= self._weight[number]
        values += low
        return values


def axis_orders(shape: Sequence[int], new_shape: Sequence[int], interpolation: Interpolation | None) -> list[int]:
    """Interpolation order along each axis.

    Raises:
        SegflowError: See `SlabResampler`.
    """
    if interpolation is None:
        if tuple(shape) != tuple(new_shape):
            raise SegflowError(
                "the plans resample nothing, but the prediction has another shape than the image",
                found=tuple(shape),
                expected=tuple(new_shape),
            )
        return [1, 1, 1]
    orders = [interpolation.order] * 3
    if interpolation.separate is not None:
        orders[interpolation.separate] = interpolation.order_through
    if any(order not in (0, 1) for order in orders):
        raise SegflowError(
            "the plans ask for an interpolation of probabilities that segflow does not have",
            found=f"order {interpolation.order}, order_z {interpolation.order_through}",
            expected="order 0 or 1",
        )
    return orders


def _in_half_precision(values: np.ndarray) -> np.ndarray:
    """float32 values rounded to the 11 significant bits of float16. This is several times faster than converting."""
    scaled: np.ndarray = values * _HALF_PRECISION
    rounded: np.ndarray = scaled - (scaled - values)
    return rounded
