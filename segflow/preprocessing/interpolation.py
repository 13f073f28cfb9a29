"""Interpolation along one axis, as matrices, taps and indices.

Resizing a grid by a spline is linear and separable: along each axis it is the product with one small matrix. Resizing
the identity gives that matrix exactly. Grids follow recipe 4.2: voxel edges are aligned (voxel i of n has its centre at
(i + 0.5) / n), and borders are repeated.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

NEGLIGIBLE = 1e-8
"""Matrix entries below this become 0. Far from the diagonal, entries of a cubic spline become denormal numbers, whose
multiplication takes twenty times as long."""

BAND_ROWS = 32
"""Rows of a band."""


class Taps(NamedTuple):
    """Linear interpolation along an axis: ``(1 - weight) * x[low] + weight * x[high]``.

    Attributes:
        low, high: int64 (m,) source indices.
        weight: float64 (m,) weight of ``high``.
    """

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray


class Band(NamedTuple):
    """Consecutive rows of an axis matrix, without columns that are 0 in all of them.

    Attributes:
        rows, columns: Its place in the matrix.
        matrix: float32 (rows, columns).
    """

    rows: slice
    columns: slice
    matrix: np.ndarray


def source_coordinates(size: int, new_size: int) -> np.ndarray:
    """Source coordinates of the centres of ``new_size`` voxels among ``size``, float64 (new_size,), not clipped."""
    return (np.arange(new_size) + 0.5) * (size / new_size) - 0.5


@lru_cache(maxsize=256)
def nearest_indices(size: int, new_size: int) -> np.ndarray:
    """Source index of each new voxel by nearest neighbour; half-way goes up (recipe 4.2). int64 (new_size,)."""
    indices = np.floor(source_coordinates(size, new_size) + 0.5).astype(np.int64)
    return _frozen(np.clip(indices, 0, size - 1))


@lru_cache(maxsize=256)
def linear_taps(size: int, new_size: int) -> Taps:
    """The two source voxels of each new voxel and the weight of the second."""
    coordinates = np.clip(source_coordinates(size, new_size), 0, size - 1)
    low = np.floor(coordinates).astype(np.int64)
    return Taps(_frozen(low), _frozen(np.minimum(low + 1, size - 1)), _frozen(coordinates - low))


@lru_cache(maxsize=256)
def axis_matrix(size: int, new_size: int, order: int) -> np.ndarray:
    """The matrix that resizes an axis by a spline of this order, prefilter included. float32 (new_size, size)."""
    if order == 0:
        matrix = np.zeros((new_size, size))
        matrix[np.arange(new_size), nearest_indices(size, new_size)] = 1
    else:
        from scipy import ndimage  # slow to load, and not needed where the spacing stays

        # The other axis of the identity keeps its size, so it stays unchanged.
        zoom = (1.0, 1.0 / (size / new_size))
        matrix = ndimage.zoom(np.eye(size), zoom, order=order, mode="nearest", grid_mode=True).T
    matrix[np.abs(matrix) < NEGLIGIBLE] = 0
    return _frozen(np.ascontiguousarray(matrix, dtype=np.float32))


@lru_cache(maxsize=256)
def axis_bands(size: int, new_size: int, order: int) -> tuple[Band, ...]:
    """The matrix of `axis_matrix` in blocks of rows. Most of it is 0 and need not be multiplied."""
    matrix = axis_matrix(size, new_size, order)
    bands = []
    for start in range(0, new_size, BAND_ROWS):
        rows = slice(start, min(start + BAND_ROWS, new_size))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        bands.append(Band(rows, columns, np.ascontiguousarray(matrix[rows, columns])))
    return tuple(bands)


def _frozen(array: np.ndarray) -> np.ndarray:
    """Make an array read-only, since cached arrays are shared."""
    array.setflags(write=False)
    return array
