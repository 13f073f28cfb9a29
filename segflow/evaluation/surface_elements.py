"""The elements of a surface, found slab by slab, and their distances to another surface.

Most elements of a good prediction lie within a few voxels of the reference's surface. The places around each are
therefore looked at first, the nearest ones first. Only what finds nothing there is searched in a tree.

A distance follows from the differences of the indices, as in the surface-distance package. It does not depend on where
in the volume the two elements lie, so equal distances are equal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial import cKDTree

from segflow.evaluation.surface_area import cell_areas, inner_codes

SLAB_VOXELS = 1 << 18
"""Voxels of a slab. Their codes stay in the cache of a processor."""

NEAR = 256
"""Number of places around an element that are looked at before a tree is made."""

STEPS = (6, 26, 2 * NEAR)
"""The places are looked at in groups up to these numbers; most elements are found in the first."""

FEW = 0.5
"""Share of elements that may be left for the next group. If more are, the surfaces lie apart, and a tree is quicker."""

LOOKS_AT_ONCE = 1 << 16
"""Places that are looked at together, and pairs of elements that are compared without a tree."""


def slabs_of(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive slabs of a mask, bool (Z, Y, X) or (Y, X)."""
    step = max(1, SLAB_VOXELS // max(1, math.prod(mask.shape[1:])))
    for start in range(0, len(mask), step):
        yield mask[start : start + step]


@dataclass(frozen=True, slots=True)
class CornerGrid:
    """The corners of the voxels of a volume, with a margin in which no surface lies.

    Attributes:
        shape: Corners along each axis, margins included.
        margin: Corners before and after the volume along each axis.
        spacing: mm along each axis.
    """

    shape: tuple[int, ...]
    margin: tuple[int, ...]
    spacing: tuple[float, ...]

    @classmethod
    def around(cls, shape: Sequence[int], spacing: Sequence[float]) -> CornerGrid:
        """The grid of a volume with so many voxels along (z, y, x) or (y, x), and so many mm between them."""
        spacing = tuple(float(s) for s in spacing)
        offsets, _ = _places_around(spacing)
        margin = tuple(int(n) for n in offsets.max(axis=0))
        return cls(tuple(n + 1 + 2 * m for n, m in zip(shape, margin, strict=True)), margin, spacing)

    def surface_of(self, slabs: Iterable[np.ndarray]) -> Surface:
        """The surface of an object.

        Args:
            slabs: bool (Z, Y, X) or (Y, X), consecutive parts of the object's mask along its first axis.
        """
        sizes, kinds = _kinds_of_areas(self.spacing)
        codes_inside = len(kinds) - 1
        present = np.zeros(self.shape, dtype=bool)
        inner = present[tuple(slice(m, n - m) for m, n in zip(self.margin, self.shape, strict=True))]
        found: list[np.ndarray] = []
        row = 0
        for codes in _codes_of(slabs, inner.shape[1:]):
            surface = inner[row : row + len(codes)]
            # All inside (all bits set) and all outside (0) are no surface: less 1, both lie at the end of uint8.
            np.less(codes - np.uint8(1), codes_inside - 1, out=surface)
            found.append(kinds[codes[surface]])
            row += len(codes)
        of_elements = np.concatenate(found) if found else np.zeros(0, dtype=np.uint8)
        return Surface(self, present, np.flatnonzero(present), of_elements, sizes[of_elements])


def _codes_of(slabs: Iterable[np.ndarray], corners: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Codes of the corners, slab by slab; ``corners`` is their number along all axes but the first."""
    before = np.zeros([n + 1 for n in corners], dtype=np.uint8)
    middle = (slice(1, -1),) * len(corners)
    waiting = iter(slabs)
    slab = next(waiting, None)
    while slab is not None:
        following = next(waiting, None)
        beyond = 1 if following is None else 0  # the last slab ends with the outside
        padded = np.zeros((1 + len(slab) + beyond, *before.shape), dtype=np.uint8)
        padded[0] = before
        padded[(slice(1, 1 + len(slab)), *middle)] = slab
        before = padded[-1].copy()
        yield inner_codes(padded)
        slab = following


@dataclass(frozen=True, slots=True)
class Surface:
    """The elements of an object's surface.

    Attributes:
        grid: Where they may lie.
        present: bool (*grid.shape): where they lie.
        places: intp (n,): their places in the flat grid, ascending.
        kinds: uint8 (n,): the rank of each one's area among all areas that there are.
        areas: float64 (n,): mm² (mm in 2D) of each.
    """

    grid: CornerGrid
    present: np.ndarray
    places: np.ndarray
    kinds: np.ndarray
    areas: np.ndarray

    def distances_from(self, other: Surface) -> np.ndarray:
        """float64 (m,): mm from each element of another surface to the nearest of this one; inf if it has none."""
        if not len(self.places):
            return np.full(len(other.places), np.inf)
        distances = np.zeros(len(other.places))
        present = self.present.reshape(-1)
        left = np.flatnonzero(~present[other.places])  # elements that both surfaces share are at distance 0
        offsets, lengths = _places_around(self.grid.spacing)
        flat = offsets @ _strides(self.grid.shape)
        start, before = 0, len(left)
        for stop in STEPS:
            if not len(left) or (start and len(left) > FEW * before):
                break
            before = len(left)
            left = _look(present, other.places, left, flat[start:stop], lengths[start:stop], distances)
            start = stop
        if len(left):
            distances[left] = self._search(other.places[left])
        return distances

    def _search(self, places: np.ndarray) -> np.ndarray:
        """mm from each of some places to the nearest element, wherever it is."""
        own, others = (np.stack(np.unravel_index(p, self.grid.shape), axis=1) for p in (self.places, places))
        if len(own) * len(others) <= LOOKS_AT_ONCE:
            offsets = (own[:, None] - others).reshape(-1, own.shape[1])
            nearest: np.ndarray = _lengths(offsets, self.grid.spacing).reshape(len(own), -1).min(axis=0)
            return nearest
        scale = np.asarray(self.grid.spacing)
        tree = cKDTree(own * scale, balanced_tree=False, compact_nodes=False)
        return _lengths(own[tree.query(others * scale)[1]] - others, self.grid.spacing)


def _look(
    present: np.ndarray,
    places: np.ndarray,
    left: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    distances: np.ndarray,
) -> np.ndarray:
    """Look for elements at some offsets, the nearest first, and enter their distances. Returns what finds none."""
    missing = []
    step = max(1, LOOKS_AT_ONCE // max(1, len(offsets)))
    for start in range(0, len(left), step):
        some = left[start : start + step]
        hits = present[places[some][:, None] + offsets]
        nearest = hits.argmax(axis=1)
        distances[some] = lengths[nearest]
        missing.append(some[~hits[np.arange(len(some)), nearest]])
    return np.concatenate(missing)


@lru_cache(maxsize=64)
def _kinds_of_areas(spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All areas that a cell may have, ascending, and for each code which of them it has, uint8. These sort quickly."""
    sizes, kinds = np.unique(cell_areas(spacing), return_inverse=True)
    return sizes, kinds.astype(np.uint8)


@lru_cache(maxsize=64)
def _places_around(spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """All offsets within some distance, and their lengths in mm, the shortest first. There are about `NEAR` of them."""
    sizes = sorted(spacing)
    # The radius at which a line, a circle or a ball holds as many places: voxels may be very long along one axis.
    balls = [NEAR / 2 * sizes[0], math.sqrt(NEAR / math.pi * sizes[0] * sizes[1])]
    if len(sizes) == 3:
        balls.append((NEAR * 3 / (4 * math.pi) * math.prod(sizes)) ** (1 / 3))
    radius = min(balls)
    reach = [int(radius / s) for s in spacing]
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    offsets = offsets.reshape(-1, len(spacing))
    lengths = _lengths(offsets, spacing)
    order = np.argsort(lengths, kind="stable")
    order = order[(lengths[order] > 0) & (lengths[order] <= radius)]
    return offsets[order], lengths[order]


def _lengths(offsets: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """float64 (n,): mm of differences of indices (n, axes), by the arithmetic of scipy's distance transform."""
    scaled = offsets * np.asarray(spacing)
    scaled *= scaled
    lengths: np.ndarray = np.sqrt(np.add.reduce(scaled, axis=1))
    return lengths


def _strides(shape: Sequence[int]) -> np.ndarray:
    """intp (axes,): places between neighbours along each axis of a flat grid."""
    return np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))], dtype=np.intp)
