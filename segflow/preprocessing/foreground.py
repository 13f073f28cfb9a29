"""Foreground locations: voxels that training may centre a patch on (recipe 4.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from segflow.core.geometry import Box
from segflow.core.image_look import SLAB_VALUES
from segflow.core.labels import OUTSIDE, LabelKey, Labels
from segflow.core.voxels import ArrayLabel, LabelSource, boxes_in_order

_SEED = 1234
_ENOUGH = 10_000
_SHARE = 0.01
_VOXELS_AT_ONCE = 1 << 16
_LARGEST_CHOICE, LARGEST_SHUFFLE = 1 << 24, 1 << 28
"""Voxels of a key up to which a draw shuffles the ranks of all of them, as numbers of 64 bits and of 32 bits."""


def location_keys(labels: Labels) -> tuple[LabelKey, ...]:
    """Keys of the locations: foreground labels or regions, and with an ignore label a key for all annotated voxels."""
    keys = labels.foreground_keys
    return keys if labels.ignore_label is None else (*keys, (OUTSIDE, *labels.all_labels))


def draw_foreground_locations(label: np.ndarray, keys: Sequence[LabelKey]) -> dict[LabelKey, np.ndarray]:
    """Draw voxels of each label or region uniformly without replacement. Equal label maps give equal draws.

    All voxels of a small structure are taken. Of a large one, 10 000 or one in a hundred are, whichever is more.

    Args:
        label: int (Z, Y, X) in plan space.
        keys: Labels, and regions as tuples of labels.

    Returns:
        Key → int32 (n, 3) voxels (z, y, x) in the order drawn; n is 0 for a key without voxels.
    """
    return draw_locations_as_read(ArrayLabel(label), keys, _VOXELS_AT_ONCE)


def draw_locations_as_read(
    label: LabelSource, keys: Sequence[LabelKey], most_voxels: int = SLAB_VALUES
) -> dict[LabelKey, np.ndarray]:
    """Like `draw_foreground_locations`, for a label map that is read twice, slab by slab.

    A draw takes four bytes for each voxel of the key, and no more than 1 GB.

    Args:
        label: In plan space.
        keys: Labels, and regions as tuples of labels.
        most_voxels: Voxels that are read at once.
    """
    boxes = list(boxes_in_order(label.shape, most_voxels))
    counts = _counts(label, boxes)
    random = np.random.RandomState(_SEED)
    result: dict[LabelKey, np.ndarray] = {}
    wanted = _Wanted(len(boxes))
    for key in keys:
        values = [v for v in ((key,) if isinstance(key, int) else key) if OUTSIDE <= v < OUTSIDE + counts.shape[1]]
        totals = [int(counts[:, value - OUTSIDE].sum()) for value in values]
        total = sum(totals)
        if total == 0:
            result[key] = np.empty((0, 3), np.int32)
            continue
        drawn = _draw(random, total)
        result[key] = np.empty((len(drawn), 3), np.int32)
        ends = np.cumsum(totals)
        which = np.searchsorted(ends, drawn, side="right")
        for number, value in enumerate(values):
            mine = np.flatnonzero(which == number)
            ranks = drawn[mine] - (ends[number] - totals[number])
            wanted.add(value, ranks, counts[:, value - OUTSIDE], result[key], mine)
    wanted.find(label, boxes)
    return result


def _draw(random: np.random.RandomState, total: int) -> np.ndarray:
    """Ranks of the voxels that are taken of ``total``, int (n,) in the order drawn."""
    wanted = max(min(_ENOUGH, total), math.ceil(total * _SHARE))
    if total <= _LARGEST_CHOICE:
        return random.choice(total, wanted, replace=False)
    if total <= LARGEST_SHUFFLE:  # the same draw, with half the memory
        ranks = np.arange(total, dtype=np.int32)
        random.shuffle(ranks)
        return ranks[:wanted].copy()
    return np.random.default_rng(_SEED).choice(total, wanted, replace=False)


def _counts(label: LabelSource, boxes: Sequence[Box]) -> np.ndarray:
    """Voxels of each label value from `OUTSIDE` up in each box, int64 (boxes, values)."""
    counts = [np.bincount(label.read(box).ravel() - OUTSIDE) for box in boxes]
    result = np.zeros((len(boxes), max(len(count) for count in counts)), np.int64)
    for row, count in zip(result, counts, strict=True):
        row[: len(count)] = count
    return result


class _Wanted:
    """Voxels to find, for each box those of one label value that have certain ranks in it."""

    def __init__(self, boxes: int) -> None:
        self._of_box: list[list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in range(boxes)]

    def add(self, value: int, ranks: np.ndarray, counts: np.ndarray, result: np.ndarray, places: np.ndarray) -> None:
        """Ask for the voxels with a value, by their ranks among all such voxels in memory order.

        Args:
            value: The label value.
            ranks: int (n,).
            counts: Voxels with this value in each box.
            result: int32 (m, 3), which gets the voxels.
            places: int (n,), where in it.
        """
        ends = np.cumsum(counts)
        of_box = np.searchsorted(ends, ranks, side="right")
        order = np.argsort(of_box, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(of_box[order])) + 1):
            if len(group):
                number = int(of_box[group[0]])
                local = ranks[group] - (ends[number] - counts[number])
                self._of_box[number].append((value, local, result, places[group]))

    def find(self, label: LabelSource, boxes: Sequence[Box]) -> None:
        """Find all voxels asked for."""
        for box, requests in zip(boxes, self._of_box, strict=True):
            if not requests:
                continue
            values = label.read(box)
            for value, ranks, result, places in requests:
                there = np.flatnonzero(values == value)[ranks]
                voxels = np.unravel_index(there, values.shape)
                for axis, (start, along) in enumerate(zip(box.start, voxels, strict=True)):
                    result[places, axis] = along + start
