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
        pieces: Consecutive planes of the array, float16 or float32 (K, planes, Y, X), each time with the number of the
            first. They hold all planes that the target slices are computed from.
        planes: Planes of the whole array.
        new_shape: Voxels along z, y, x after resampling.
        interpolation: Of order 0 or 1; None if the plan does not resample.

    Raises:
        SegflowError: The plan asks for another order, or for no resampling between different grids.
    """

    def __init__(
        self,
        pieces: Sequence[tuple[int, np.ndarray]],
        planes: int,
        new_shape: Sequence[int],
        interpolation: Interpolation | None,
    ) -> None:
        self._pieces = pieces
        self._half = pieces[0][1].dtype == np.float16
        self._new_shape = tuple(int(n) for n in new_shape)
        shape = (planes, *pieces[0][1].shape[2:])
        orders = axis_orders(shape, self._new_shape, interpolation)
        self._axes = [_Axis(n, m, order) for n, m, order in zip(shape, new_shape, orders, strict=True)]

    @classmethod
    def of(cls, array: np.ndarray, new_shape: Sequence[int], interpolation: Interpolation | None) -> SlabResampler:
        """For a whole array (K, Z, Y, X)."""
        return cls([(0, array)], array.shape[1], new_shape, interpolation)

    def slabs(self, rows: Range | None = None) -> list[Range]:
        """Ranges of target slices, one per slab; of some target slices, or of all."""
        start, stop = (0, self._new_shape[0]) if rows is None else rows
        plane = self._new_shape[1] * self._new_shape[2]
        step = max(1, _SLAB_VOXELS // plane)
        return [(first, min(first + step, stop)) for first in range(start, stop, step)]

    def channel(self, index: int, slab: Range) -> Iterator[np.ndarray]:
        """One channel's values, float32 (Y, X), for each target slice of a slab.

        They are rounded to the array's type (recipe 11.5) and must not be written into.
        """
        through, rows, columns = self._axes
        first, last = through.source_range(*slab)
        planes = [
            rows.interpolate(columns.interpolate(plane.astype(np.float32, copy=False), axis=1), axis=0)
            for start, array in self._pieces
            for plane in array[index, max(first - start, 0) : max(last - start, 0)]
        ]
        for number in range(*slab):
            values = through.between(planes, first, number)
            yield _in_half_precision(values) if self._half else values


class Progression:
    """Which target slices can be computed, as the planes of an array come in order.

    Args:
        size: Planes of the array.
        new_size: Target slices.
        order: Interpolation order along the first axis, 0 or 1.

    Attributes:
        done: Target slices that were ready.
    """

    def __init__(self, size: int, new_size: int, order: int) -> None:
        self._size, self._new_size = size, new_size
        self._axis = _Axis(size, new_size, order)
        self.done = 0

    def take(self, stop: int) -> tuple[Range, int]:
        """The planes before ``stop`` are there.

        Returns:
            The target slices that are ready now and were not before, and the first plane that later ones need.
        """
        ready = self._new_size if stop >= self._size else self._axis.ready(stop)
        rows = (self.done, ready)
        self.done = ready
        needed = self._size if ready == self._new_size else self._axis.source_range(ready, ready + 1)[0]
        return rows, min(needed, stop)


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

    def ready(self, stop: int) -> int:
        """Number of target indices that are computed from source indices before ``stop``."""
        return stop if self._same else int(np.searchsorted(self._high, stop))

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
