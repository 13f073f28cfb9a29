"""Overlap of two label maps, counted for all labels in one pass (recipe 12)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        counts = self.counts
        if ignore_label in self.values:
            counts = counts.copy()
            counts[self.values.index(ignore_label)] = 0
        of_reference = counts[inside].sum(axis=0)
        n_ref, tp = int(of_reference.sum()), int(of_reference[inside].sum())
        n_pred = int(counts[:, inside].sum())
        return Overlap(tp, n_pred - tp, n_ref - tp, int(counts.sum()) - n_pred - n_ref + tp)

    @classmethod
    def together(cls, parts: Sequence[JointCounts]) -> JointCounts:
        """The counts of several parts of a volume."""
        if len(parts) == 1:
            return parts[0]
        values = sorted({value for part in parts for value in part.values})
        table = np.zeros((len(values), len(values)), dtype=np.int64)
        for part in parts:
            places = np.searchsorted(values, part.values)
            table[np.ix_(places, places)] += part.counts
        return cls(tuple(values), table)

    def values_of_reference(self) -> list[int]:
        """The values that the reference holds, ascending."""
        return [self.values[k] for k in np.flatnonzero(self.counts.any(axis=1))]

    def values_of_prediction(self) -> list[int]:
        """The values that the prediction holds, ascending."""
        return [self.values[k] for k in np.flatnonzero(self.counts.any(axis=0))]


def check_pair(reference: np.ndarray, prediction: np.ndarray) -> None:
    """Refuse arrays, (Z, Y, X) or any other shape, that cannot be two label maps of a case.

    Raises:
        SegflowError: The shapes differ, or a map does not hold whole numbers.
    """
    if reference.shape != prediction.shape:
        raise SegflowError("prediction and reference differ in shape", found=prediction.shape, expected=reference.shape)
    for name, labels in (("reference", reference), ("prediction", prediction)):
        if labels.dtype.kind not in "iub":
            raise SegflowError(f"the {name} must hold whole numbers", found=str(labels.dtype))


def count_pairs(reference: np.ndarray, prediction: np.ndarray, values: Iterable[int] = ()) -> JointCounts:
    """Count the pairs of labels of two label maps, in a time that does not grow with the number of labels.

    Args:
        reference: Whole numbers, any shape.
        prediction: Whole numbers, the same shape.
        values: Label values to include even if neither map holds them.

    Raises:
        SegflowError: The shapes differ, or a map does not hold whole numbers.
    """
    check_pair(reference, prediction)
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
