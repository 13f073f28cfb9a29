"""Votes of several label maps: which combinations of labels occur, and what the majority of each is.

Where members of an ensemble vote, all voxels with the same votes get the same label. So the few distinct combinations
are decided, and not each voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np

from segflow.core.labels import Labels

COUNTED = 1 << 16
"""Largest number of combinations that is counted in a table. More are sorted."""
AT_ONCE = 1 << 22
"""Numbers of a table of combinations and labels that is made at once."""


@dataclass(frozen=True, slots=True)
class Votes:
    """The distinct combinations of votes of some voxels.

    Attributes:
        labels: (U, M): the label that each of M members gives, for each of U combinations.
        counts: (U,): voxels with each combination.
    """

    labels: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, maps: Sequence[np.ndarray]) -> tuple[Votes, np.ndarray]:
        """The votes of label maps of one shape, and for each voxel the row of its combination.

        Args:
            maps: One for each member, whole numbers of any shape.
        """
        rows = np.zeros(maps[0].size, np.int64)
        labels, counts = np.zeros((1, 0), np.int64), np.array([rows.size])
        for values in maps:
            lowest, highest = int(values.min()), int(values.max())
            span = highest - lowest + 1
            rows *= span
            rows += values.ravel()
            rows -= lowest
            distinct, rows, counts = _ranked(rows)
            labels = np.column_stack([labels[distinct // span], distinct % span + lowest])
        return cls(labels, counts), rows.reshape(maps[0].shape)

    @classmethod
    def together(cls, parts: Sequence[Votes]) -> Votes:
        """The votes of several parts of an image, in one table."""
        both = np.concatenate([part.labels for part in parts])
        labels, rows = np.unique(both, axis=0, return_inverse=True)
        counts = np.zeros(len(labels), np.int64)
        np.add.at(counts, rows.ravel(), np.concatenate([part.counts for part in parts]))
        return cls(labels, counts)

    def within(self, members: Sequence[int]) -> Votes:
        """The votes on a region: 1 where a member's label is one of the region's."""
        return Votes.together([Votes(np.isin(self.labels, members).astype(np.int64), self.counts)])

    @property
    def are_unanimous(self) -> bool:
        """Whether all members agree in all voxels."""
        return bool((self.labels == self.labels[:, :1]).all())


def whole_weights(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the ratio of weights as they are typed, so that 0.1 and 0.2 together are as much as 0.3."""
    parts = [Fraction(str(weight)) for weight in weights]
    common = lcm(*(part.denominator for part in parts))
    return [int(part * common) for part in parts]


def majority(votes: np.ndarray, weights: Sequence[int]) -> np.ndarray:
    """The label with the most votes of each combination; of several with equal votes the lowest.

    Args:
        votes: (U, M), see `Votes.labels`.
        weights: Votes of each member, not negative.

    Returns:
        (U,), whole numbers.
    """
    present, places = np.unique(votes, return_inverse=True)
    places = places.reshape(votes.shape)
    result = np.empty(len(votes), present.dtype)
    step = max(1, AT_ONCE // len(present))
    exact = np.int64 if sum(weights) < 1 << 62 else object
    for start in range(0, len(votes), step):
        part = places[start : start + step]
        sums = np.zeros((len(part), len(present)), exact)
        for column, weight in zip(part.T, weights, strict=True):
            sums[np.arange(len(part)), column] += weight
        result[start : start + step] = present[sums.argmax(axis=1)]
    return result


def has_majority(votes: np.ndarray, weights: Sequence[int]) -> np.ndarray:
    """Which combinations of votes on a region have more than half of the votes for it.

    Args:
        votes: (U, M), 0 or 1.
        weights: Votes of each member, not negative.

    Returns:
        (U,), bool.
    """
    exact = np.array(weights, np.int64 if sum(weights) < 1 << 61 else object)
    return np.asarray(2 * (votes @ exact) > exact.sum(), bool)


def painted(regions: Sequence[np.ndarray], labels: Labels) -> np.ndarray:
    """Labels of decided regions, painted over each other in their order, as regions of predictions are.

    Args:
        regions: For each region of the definition (U,), bool.
        labels: A label definition with regions.
    """
    result = np.zeros(len(regions[0]), np.int64)
    for inside, label in zip(regions, labels.regions_class_order or (), strict=True):
        result[inside] = label
    return result


def _ranked(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct values of codes (N,), not negative; for each code the place of its value; and how often each occurs."""
    if int(codes.max()) >= COUNTED:
        distinct, places, counts = np.unique(codes, return_inverse=True, return_counts=True)
        return distinct, places.ravel(), counts
    everything = np.bincount(codes)
    distinct = np.flatnonzero(everything)
    table = np.zeros(len(everything), np.int64)
    table[distinct] = np.arange(len(distinct))
    return distinct, table[codes], everything[distinct]
