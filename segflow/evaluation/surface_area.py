"""Area of the surface within the cell between eight voxel centres (four pixel centres in 2D).

Cells are those of marching cubes: each corner is inside or outside of the object, and triangles separate the two. There
are 256 cells. Mirroring, exchange of axes, and exchange of inside and outside reduce them to the fourteen of `_CELLS`.
They are the cells of DeepMind's surface distances (https://github.com/google-deepmind/surface-distance), so that
surfaces have the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import chain, permutations, product

import numpy as np

Normal = tuple[int, int, int]

# Corners (z, y, x) that are inside → for each triangle the size of its projection along z, y, x in eighths of the
# cell's face, that is its normal with its area for length.
_CELLS: tuple[tuple[tuple[Normal, ...], tuple[Normal, ...]], ...] = (
    ((), ()),
    (((1, 1, 1),), ((1, 1, 1),)),
    (((1, 1, 0), (1, 1, 1)), ((2, 2, 0),) * 2),
    (((1, 0, 1), (1, 1, 0)), ((1, 1, 1),) * 2),
    (((0, 1, 1), (1, 0, 0)), ((1, 1, 1),) * 2),
    (((1, 0, 1), (1, 1, 0), (1, 1, 1)), ((1, 1, 1), (2, 2, 2), (4, 0, 0))),
    (((0, 1, 1), (1, 0, 1), (1, 1, 0)), ((1, 1, 1),) * 3),
    (((0, 1, 1), (1, 0, 0), (1, 1, 1)), ((0, 2, 2), (0, 2, 2), (1, 1, 1))),
    (((1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)), ((4, 0, 0),) * 2),
    (((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1)), ((1, 1, 1), (1, 1, 1), (2, 2, 2), (2, 2, 2))),
    (((0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1)), ((0, 2, 2), (1, 1, 1), (2, 0, 2), (3, 3, 3))),
    (((0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)), ((1, 1, 1), (1, 1, 1), (2, 2, 2), (4, 0, 0))),
    (((0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)), ((2, 2, 0),) * 4),
    (((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)), ((1, 1, 1),) * 4),
)


def cell_codes(mask: np.ndarray) -> np.ndarray:
    """Number of the cell at each corner of each voxel.

    Args:
        mask: bool (Y, X) or (Z, Y, X). Beyond it lies the outside of the object.

    Returns:
        uint8, one longer than ``mask`` along each axis: one bit per voxel around the corner, the highest bit for the
        one before it on every axis.
    """
    padded = np.zeros([n + 2 for n in mask.shape], dtype=np.uint8)
    padded[(slice(1, -1),) * mask.ndim] = mask
    return inner_codes(padded)


def inner_codes(mask: np.ndarray) -> np.ndarray:
    """Number of the cell at each corner between the voxels of ``mask``, see `cell_codes`.

    Args:
        mask: uint8 (Y, X) or (Z, Y, X), 0 or 1.

    Returns:
        uint8, one shorter than ``mask`` along each axis.
    """
    codes = mask
    for axis in reversed(range(mask.ndim)):
        before, after = (codes[(slice(None),) * axis + (part,)] for part in (slice(None, -1), slice(1, None)))
        codes = np.left_shift(before, 1 << (mask.ndim - 1 - axis))
        codes |= after
    return codes


def cell_areas(spacing: Sequence[float]) -> np.ndarray:
    """Area in mm² (length in mm in 2D) of the surface in each cell of `cell_codes`.

    Args:
        spacing: mm along (z, y, x), or along (y, x).

    Returns:
        float64 (256,), or (16,) for 2D; not to be changed.
    """
    return _cell_areas(tuple(float(s) for s in spacing))


@lru_cache(maxsize=64)
def _cell_areas(spacing: tuple[float, ...]) -> np.ndarray:
    if len(spacing) == 2:
        areas = _contour_lengths(*spacing)
    else:
        z, y, x = spacing
        faces = np.array([y * x, z * x, z * y])
        cells = _normals_of_all_cells()
        norms = {n: float(np.linalg.norm(np.array(n) / 8 * faces)) for n in set(chain(*cells.values()))}
        areas = np.zeros(256)
        for code, normals in cells.items():
            areas[code] = sum(norms[normal] for normal in normals)
    areas.setflags(write=False)
    return areas


@cache
def _normals_of_all_cells() -> dict[int, tuple[Normal, ...]]:
    cells: dict[int, tuple[Normal, ...]] = {}
    for corners, normals in _CELLS:
        for axes, flips in product(permutations(range(3)), product((0, 1), repeat=3)):
            moved = [[corner[a] ^ flip for a, flip in zip(axes, flips, strict=True)] for corner in corners]
            code = sum(128 >> (4 * z + 2 * y + x) for z, y, x in moved)
            turned = tuple((n[axes[0]], n[axes[1]], n[axes[2]]) for n in normals)
            cells[code] = turned
            cells[255 - code] = turned
    return cells


def _contour_lengths(y: float, x: float) -> np.ndarray:
    lengths = np.full(16, 0.5 * float(np.hypot(y, x)))  # one corner differs from the other three
    lengths[[0b0000, 0b1111]] = 0.0
    lengths[[0b0011, 0b1100]] = x
    lengths[[0b0101, 0b1010]] = y
    lengths[[0b0110, 0b1001]] = float(np.hypot(y, x))
    return lengths
