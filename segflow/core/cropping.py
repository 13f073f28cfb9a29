"""Cropping to the part of an image that is not zero (recipe 2.2)."""

from __future__ import annotations

from typing import NamedTuple

import fill_voids
import numpy as np

from segflow.core.geometry import Box
from segflow.core.labels import OUTSIDE

_VOXELS_PER_RUN = 16
"""Mean length of the stretches of background below which a flood fill of all voxels is quicker."""
_SMALL = 1 << 18
"""Voxels up to which it always is."""
_FEW = 1000
"""Voxels of background that are looked at one by one."""


class Cropped(NamedTuple):
    """A case after cropping.

    Attributes:
        image: (C, Z, Y, X) view of the image given.
        label: (Z, Y, X) with -1 where the label is 0 outside the non-zero mask.
        box: Its box in the given array.
    """

    image: np.ndarray
    label: np.ndarray
    box: Box


def crop_to_nonzero(image: np.ndarray, label: np.ndarray | None, *, may_overwrite: bool = False) -> Cropped:
    """Cut image and label down to the box of the non-zero mask and mark the label outside the mask.

    Args:
        image: (C, Z, Y, X).
        label: (Z, Y, X) of a signed type. None gives an int16 label that is 0 within the mask.
        may_overwrite: Whether the label may be marked in place.
    """
    mask = any_channel(image)
    box = extent_of(mask) or Box.whole(mask.shape)
    # Background on a face of the box is connected to the array's border, so cropping first changes no hole.
    inside = _fill_holes(mask[box.slices])
    if label is None:
        cropped = np.zeros(box.shape, np.int16)
    else:
        cropped = np.ascontiguousarray(label[box.slices]) if may_overwrite else np.array(label[box.slices])
    for label_slice, inside_slice in zip(cropped, inside, strict=True):
        if not inside_slice.all():
            label_slice[~inside_slice & (label_slice == 0)] = OUTSIDE
    return Cropped(image[(slice(None), *box.slices)], cropped, box)


def any_channel(image: np.ndarray) -> np.ndarray:
    """Voxels at which a channel of an image (C, Z, Y, X) is not zero: bool (Z, Y, X)."""
    mask: np.ndarray = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    return mask


def extent_of(mask: np.ndarray) -> Box | None:
    """The smallest box that holds all true voxels of a mask (Z, Y, X); None if there are none."""
    along_x, along_z = np.any(mask, axis=2), np.any(mask, axis=0)
    present = (np.any(along_x, axis=1), np.any(along_x, axis=0), np.any(along_z, axis=0))
    if not present[0].any():
        return None
    ends = [np.flatnonzero(axis)[[0, -1]] for axis in present]
    return Box(tuple(int(a) for a, _ in ends), tuple(int(b) + 1 for _, b in ends))


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask with its holes filled, perhaps in place."""
    if min(mask.shape) <= 2:
        return mask
    if mask.all():
        return mask
    mask = np.ascontiguousarray(mask)
    if (filled := _fill_single_voxels(mask)) is not None:
        return filled
    if mask.size > _SMALL:
        runs = _background_runs(mask)
        if len(runs[0]) <= mask.size // _VOXELS_PER_RUN:
            return _fill_enclosed_runs(mask, *runs)
    # The library overlooks paths that leave along an edge of the array, so the mask gets a margin.
    padded = np.zeros(tuple(n + 2 for n in mask.shape), bool)
    inner = (slice(1, -1),) * mask.ndim
    padded[inner] = mask
    filled = fill_voids.fill(padded, in_place=True)
    return np.asarray(filled[inner])


def _fill_single_voxels(mask: np.ndarray) -> np.ndarray | None:
    """Fill the mask in place if its background is a few voxels that do not touch; None if it is not.

    Scans whose background is noise are so: a voxel is 0 by chance.
    """
    if mask.size - np.count_nonzero(mask) > _FEW:
        return None
    places = np.argwhere(~mask)
    within = ((places > 0) & (places < np.asarray(mask.shape) - 1)).all(axis=1)
    for axis, length in enumerate(mask.shape):
        for step in (-1, 1):
            beside = places.copy()
            beside[:, axis] = np.clip(beside[:, axis] + step, 0, length - 1)
            moved = beside[:, axis] != places[:, axis]
            if not mask[tuple(beside[moved].T)].all():
                return None
    mask[tuple(places[within].T)] = True
    return mask


def _background_runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of background along x: flat index of the first voxel and of the one after the last, ascending.

    A stretch ends with its row.
    """
    width = mask.shape[2]
    starts, ends = [], []
    for number, slice_ in enumerate(mask):
        edges = np.ones((slice_.shape[0], width + 2), bool)
        edges[:, 1:-1] = slice_
        changes = np.flatnonzero(edges[:, 1:] != edges[:, :-1])
        rows, columns = np.divmod(changes, width + 1)
        flat = (number * slice_.shape[0] + rows) * width + columns
        starts.append(flat[::2])
        ends.append(flat[1::2])
    return np.concatenate(starts), np.concatenate(ends)


def _fill_enclosed_runs(mask: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Fill runs that no chain of touching runs connects to the border. The cost grows with runs, not with voxels."""
    from scipy.sparse import coo_matrix  # slow to load
    from scipy.sparse.csgraph import connected_components

    slices, height, width = mask.shape
    row = starts // width
    y, z = row % height, row // height
    column, end_column = starts - row * width, ends - row * width
    at_border = (column == 0) | (end_column == width) | (y == 0) | (y == height - 1) | (z == 0) | (z == slices - 1)
    # Rows get a gap of one between them, so that a run's end is not taken for the next row's start.
    first, last = row * (width + 1) + column, row * (width + 1) + end_column
    pairs = []
    for step, has_neighbour in ((1, y < height - 1), (height, z < slices - 1)):
        here = np.flatnonzero(has_neighbour)
        low = np.searchsorted(last, first[here] + step * (width + 1), side="right")
        high = np.searchsorted(first, last[here] + step * (width + 1), side="left")
        counts = np.maximum(high - low, 0)
        before = np.cumsum(counts) - counts
        neighbours = np.repeat(low - before, counts) + np.arange(counts.sum())
        pairs.append((np.repeat(here, counts), neighbours))
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(len(starts),) * 2)
    _, component = connected_components(graph, directed=False)
    open_components = np.zeros(component.max() + 1, bool)
    open_components[component[at_border]] = True
    flat = mask.reshape(-1)
    enclosed = ~open_components[component]
    lengths = (ends - starts)[enclosed]
    before = np.cumsum(lengths) - lengths
    flat[np.repeat(starts[enclosed] - before, lengths) + np.arange(lengths.sum())] = True
    return mask
