"""Overlap of two label maps, counted for all labels in one pass (recipe 12)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.labels import LabelKey

VOXELS_AT_ONCE = 1 << 15
"""Voxels that are counted at a time. Their 64-bit codes fit into the cache, and no full-size copy is made."""

LARGEST_TABLE = 256
"""Widest span of values that indexes the joint table directly. A wider one is first mapped to consecutive numbers."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxel counts of one label or region in one case."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN if neither map holds the label."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN); NaN if neither map holds the label."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def n_pred(self) -> int:
        """Voxels with the label in the prediction."""
        return self.tp + self.fp

    @property
    def n_ref(self) -> int:
        """Voxels with the label in the reference."""
        return self.tp + self.fn


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")


@dataclass(frozen=True, slots=True)
class JointCounts:
    """Number of voxels for each pair of labels.

    Attributes:
        values: The label values in the table, ascending.
        counts: int64 (n, n): voxels with reference ``values[i]`` and prediction ``values[j]``.
    """

    values: tuple[int, ...]
    counts: np.ndarray

    def overlap(self, key: LabelKey, ignore_label: int | None = None) -> Overlap:
        """The counts of one label or region, without voxels whose reference is ``ignore_label``."""
        members = {key} if isinstance(key, int) else set(key)
        inside = np.array([value in members for value in self.values], dtype=bool)
        rows = np.array([value != ignore_label for value in self.values], dtype=bool)
        counts = self.counts[rows]
        reference = inside[rows]
        tp = int(counts[np.ix_(reference, inside)].sum())
        fp = int(counts[np.ix_(~reference, inside)].sum())
        fn = int(counts[np.ix_(reference, ~inside)].sum())
        return Overlap(tp, fp, fn, int(counts.sum()) - tp - fp - fn)


def count_pairs(reference: np.ndarray, prediction: np.ndarray, values: Iterable[int] = ()) -> JointCounts:
    """Count the pairs of labels of two label maps, in a time that does not grow with the number of labels.

    Args:
        reference: Whole numbers, any shape.
        prediction: Whole numbers, the same shape.
        values: Label values to include even if neither map holds them.

    Raises:
        SegflowError: The shapes differ, or a map does not hold whole numbers.
    """
    if reference.shape != prediction.shape:
        raise SegflowError("prediction and reference differ in shape", found=prediction.shape, expected=reference.shape)
    for name, labels in (("reference", reference), ("prediction", prediction)):
        if labels.dtype.kind not in "iub":
            raise SegflowError(f"the {name} must hold whole numbers", found=str(labels.dtype))
    wanted = [int(value) for value in values]
    bounds = wanted + [int(f(a)) for a in (reference, prediction) if a.size for f in (np.min, np.max)]
    low, high = min(bounds, default=0), max(bounds, default=0)
    if high - low < LARGEST_TABLE:
        return _count_span(reference, prediction, low, high - low + 1)
    known = np.unique(np.concatenate([np.asarray(wanted, dtype=np.int64), _distinct(reference), _distinct(prediction)]))
    dense = _count_span(np.searchsorted(known, reference), np.searchsorted(known, prediction), 0, len(known))
    return JointCounts(tuple(int(value) for value in known), dense.counts)


def _distinct(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels).astype(np.int64)


def _count_span(reference: np.ndarray, prediction: np.ndarray, low: int, size: int) -> JointCounts:
    table = np.zeros(size * size, dtype=np.int64)
    flat_reference, flat_prediction = reference.reshape(-1), prediction.reshape(-1)
    for start in range(0, flat_reference.size, VOXELS_AT_ONCE):
        ours, theirs = (flat[start : start + VOXELS_AT_ONCE] for flat in (flat_reference, flat_prediction))
        if ours.min() == ours.max() and theirs.min() == theirs.max():  # most of a volume is only background
            table[(int(ours[0]) - low) * size + int(theirs[0]) - low] += len(ours)
            continue
        codes = ours.astype(np.int64)
        codes -= low
        codes *= size
        codes += theirs
        codes -= low
        found = np.bincount(codes)
        table[: len(found)] += found
    return JointCounts(tuple(range(low, low + size)), table.reshape(size, size))
