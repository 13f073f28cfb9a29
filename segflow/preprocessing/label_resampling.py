"""Resizing of label maps by linearly interpolated indicators (recipe 4.2). The cost does not grow with labels.

A new voxel lies between 2, 4 or 8 source voxels. Nearly everywhere these agree, and the new voxel gets their label.
Only the other voxels are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import product

import numpy as np

from segflow.preprocessing.interpolation import Taps, linear_taps, nearest_indices

_CHUNK = 1 << 16


class TieRule(Enum):
    """Rule that chooses among labels with the same score.

    NEAREST takes the nearest source voxel's label if it is among them, else the smallest. LOWEST takes the smallest,
    with scores in thousandths and half precision, as in nnU-Net's torch resampling.
    """

    NEAREST = "nearest"
    LOWEST = "lowest"


def resize_label(
    label: np.ndarray, new_shape: tuple[int, ...], order: int, separate: int | None, ties: TieRule
) -> np.ndarray:
    """Resize a label map.

    Args:
        label: int (Z, Y, X).
        new_shape: Voxels after resizing.
        order: 0 takes the nearest voxel, 1 the label with the largest interpolated indicator.
        separate: Axis along which the nearest slice is taken for any order, or None.
        ties: See `TieRule`.

    Returns:
        (\\*new_shape) of the label's type.
    """
    if separate not in (None, 0):
        moved = np.moveaxis(label, separate, 0)
        moved_shape = (new_shape[separate], *(n for axis, n in enumerate(new_shape) if axis != separate))
        return np.ascontiguousarray(np.moveaxis(resize_label(moved, moved_shape, order, 0, ties), 0, separate))
    return resize_label_slices(np.ascontiguousarray(label), 0, label.shape, new_shape, order, separate, ties)


def label_slices_needed(size: int, new_size: int, order: int, separate: int | None, start: int, stop: int) -> range:
    """Source slices from which the new slices from ``start`` to ``stop`` are made.

    Args:
        size, new_size: Slices before and after.
        order, separate: As in `resize_label`; ``separate`` is None or 0.
        start, stop: The new slices; at least one.
    """
    if order == 0 or separate == 0:
        index = nearest_indices(size, new_size)[start:stop]
        return range(int(index[0]), int(index[-1]) + 1)
    through = linear_taps(size, new_size)
    return range(int(through.low[start]), int(through.high[stop - 1]) + 1)


def resize_label_slices(
    label: np.ndarray,
    first: int,
    shape: Sequence[int],
    new_shape: Sequence[int],
    order: int,
    separate: int | None,
    ties: TieRule,
    part: slice = slice(None),
) -> np.ndarray:
    """Some new slices of a label map, made from the slices that `label_slices_needed` names.

    Args:
        label: int (n, Y, X), slices of the map.
        first: Number of the first of them.
        shape: Of the whole map.
        new_shape, order, separate, ties: As in `resize_label`; ``separate`` is None or 0.
        part: The new slices.

    Returns:
        (m, Y', X') of the label's type.
    """
    nearest = [nearest_indices(n, m) for n, m in zip(shape, new_shape, strict=True)]
    chosen = nearest[0][part]
    result = np.empty((len(chosen), *new_shape[1:]), label.dtype)
    if order == 0:
        for target, index in zip(result, chosen, strict=True):
            target[...] = label[index - first][nearest[1]][:, nearest[2]]
        return result
    planes = _Planes(label, first, new_shape[1:], nearest[1:], ties)
    if separate == 0:
        for index in np.unique(chosen):
            result[chosen == index] = planes.between(int(index), int(index), 0.0, int(index))
        return result
    through = linear_taps(shape[0], new_shape[0])
    taps = (values[part] for values in through)
    for target, low, high, weight, index in zip(result, *taps, chosen, strict=True):
        target[...] = planes.between(int(low), int(high) if weight else int(low), float(weight), int(index))
    return result


class _Planes:
    """Computes new planes from planes of a label map, which are those from number ``first`` on."""

    def __init__(
        self,
        label: np.ndarray,
        first: int,
        new_shape: Sequence[int],
        nearest: Sequence[np.ndarray],
        ties: TieRule,
    ) -> None:
        self._label = label
        self._first = first
        self._nearest = nearest
        self._ties = ties
        self._taps = [linear_taps(n, m) for n, m in zip(label.shape[1:], new_shape, strict=True)]
        self._same = [n == m for n, m in zip(label.shape[1:], new_shape, strict=True)]

    def between(self, low: int, high: int, weight: float, nearest: int) -> np.ndarray:
        """The plane between two source planes, ``weight`` of the way from low to high."""
        first, second = self._label[low - self._first], self._label[high - self._first]
        rows, columns = self._taps
        plane = self._label[nearest - self._first]
        plane = plane if self._same[0] else plane[self._nearest[0]]
        plane = plane.copy() if self._same[1] and self._same[0] else np.take(plane, self._nearest[1], axis=1)
        mixed = self._disagreement(first, second)
        mixed = mixed if self._same[0] else mixed[rows.low]
        mixed = mixed if self._same[1] else np.take(mixed, columns.low, axis=1)
        where = np.flatnonzero(mixed)
        sources = [first] if low == high else [first, second]
        weights = [1.0] if low == high else [1.0 - weight, weight]
        for start in range(0, len(where), _CHUNK):
            part = where[start : start + _CHUNK]
            plane.reshape(-1)[part] = self._winners(part, sources, weights, plane)
        return plane

    def _disagreement(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Source voxels, as low corners, that differ from a voxel that they are interpolated with."""
        mixed: np.ndarray = first != second
        for axis, same in enumerate(self._same):
            if same:
                continue
            before, after = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
            step = mixed[before] | mixed[after] | (first[before] != first[after])
            mixed = mixed.copy()
            mixed[before] = step
        return mixed

    def _winners(
        self, where: np.ndarray, sources: Sequence[np.ndarray], weights: Sequence[float], plane: np.ndarray
    ) -> np.ndarray:
        """Labels of the new voxels with these flat indices."""
        row, column = np.divmod(where, plane.shape[1])
        row_corners = _corners(self._taps[0], row, self._same[0])
        column_corners = _corners(self._taps[1], column, self._same[1])
        labels, shares = [], []
        for (source, share), (y, share_y), (x, share_x) in product(
            zip(sources, weights, strict=True), row_corners, column_corners
        ):
            labels.append(source[y, x])
            shares.append((share * share_y) * share_x)  # scipy's order, since ties must come out the same
        if self._ties is TieRule.NEAREST:
            return _win(labels, shares, plane.reshape(-1)[where])
        return _win(labels, shares, None)


def _corners(taps: Taps, index: np.ndarray, same: bool) -> list[tuple[np.ndarray, np.ndarray | float]]:
    if same:
        return [(index, 1.0)]
    weight = taps.weight[index]
    return [(taps.low[index], 1.0 - weight), (taps.high[index], weight)]


def _win(labels: list[np.ndarray], shares: list[np.ndarray], nearest: np.ndarray | None) -> np.ndarray:
    """The label with the largest sum of shares among the corners of each voxel."""
    rounding = np.float16 if nearest is None else np.float64
    thousand = 1000 if nearest is None else 1
    winner = labels[0]
    best: np.ndarray = (thousand * _score(winner, labels, shares)).astype(rounding)
    for label in labels[1:]:
        score: np.ndarray = (thousand * _score(label, labels, shares)).astype(rounding)
        better = (score > best) | ((score == best) & (label < winner))
        best = np.where(better, score, best)
        winner = np.where(better, label, winner)
    if nearest is None:
        return winner
    return np.where(_score(nearest, labels, shares) == best, nearest, winner)


def _score(label: np.ndarray, labels: list[np.ndarray], shares: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(len(label))
    for other, share in zip(labels, shares, strict=True):
        total += (label == other) * share
    return total
