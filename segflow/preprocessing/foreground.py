"""Foreground locations: voxels that training may centre a patch on (recipe 4.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from segflow.core.labels import OUTSIDE, LabelKey, Labels

_SEED = 1234
_ENOUGH = 10_000
_SHARE = 0.01
_VOXELS_AT_ONCE = 1 << 16


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
    lowest = int(label.min())
    slabs = _slabs(label)
    counts = _counts(slabs, lowest)
    random = np.random.RandomState(_SEED)
    result: dict[LabelKey, np.ndarray] = {}
    for key in keys:
        values = [v for v in ((key,) if isinstance(key, int) else key) if lowest <= v < lowest + counts.shape[1]]
        totals = [int(counts[:, value - lowest].sum()) for value in values]
        total = sum(totals)
        if total == 0:
            result[key] = np.empty((0, 3), np.int32)
            continue
        wanted = max(min(_ENOUGH, total), math.ceil(total * _SHARE))
        drawn = random.choice(total, wanted, replace=False)
        found = np.empty((wanted, 3), np.int32)
        ends = np.cumsum(totals)
        which = np.searchsorted(ends, drawn, side="right")
        for number, value in enumerate(values):
            mine = np.flatnonzero(which == number)
            ranks = drawn[mine] - (ends[number] - totals[number])
            found[mine] = _voxels_of_rank(slabs, value, ranks, counts[:, value - lowest])
        result[key] = found
    return result


def _slabs(label: np.ndarray) -> list[np.ndarray]:
    """Views of the slices (Z, Y, X), several small ones or one large one together."""
    depth = max(1, _VOXELS_AT_ONCE // max(1, label[0].size))
    return [label[start : start + depth] for start in range(0, len(label), depth)]


def _counts(slabs: Sequence[np.ndarray], lowest: int) -> np.ndarray:
    """Voxels of each label value from ``lowest`` up in each slab, int64 (slabs, values)."""
    values = max(int(slab.max()) for slab in slabs) - lowest + 1
    return np.stack([np.bincount(slab.ravel() - lowest, minlength=values) for slab in slabs])


def _voxels_of_rank(slabs: Sequence[np.ndarray], value: int, ranks: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Voxels with this value, given by their ranks among all such voxels in memory order. int32 (n, 3)."""
    ends = np.cumsum(counts)
    of_slab = np.searchsorted(ends, ranks, side="right")
    starts = np.cumsum([0, *(len(slab) for slab in slabs)])
    result = np.empty((len(ranks), 3), np.int32)
    order = np.argsort(of_slab, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(of_slab[order])) + 1):
        if not len(group):
            continue
        number = int(of_slab[group[0]])
        slab = slabs[number]
        there = np.flatnonzero(slab == value)[ranks[group] - (ends[number] - counts[number])]
        z, y, x = np.unravel_index(there, slab.shape)
        result[group, 0], result[group, 1], result[group, 2] = z + starts[number], y, x
    return result
