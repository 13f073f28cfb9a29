"""STAPLE: the most likely label map behind those of several members, whose reliability is estimated from them.

Warfield, Zou and Wells: Simultaneous truth and performance level estimation (IEEE TMI 2004), in its form for several
labels by Rohlfing, Russakoff and Maurer (IEEE TMI 2004). Start, prior and end of the estimation are those of ITK's
``MultiLabelSTAPLEImageFilter``, and so are the label maps. It looks at each voxel in each round. Here a round looks at
each distinct combination of votes, of which there are few, so that an image of any size is estimated in slabs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from segflow.inference.votes import AT_ONCE, Votes, majority

PRECISE = 1e-5
"""Largest change of a probability between two rounds after which the estimation ends."""
MOST_ROUNDS = 1000
EQUAL = 1e-9
"""Relative difference up to which two labels count as equally likely."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """What is estimated of the members.

    Attributes:
        present: (K,): the labels that a member gives to a voxel, ascending.
        prior: (K,): share of each of them in all votes.
        confusion: (M, K, K): probability that member m gives label i (axis 1) where label j (axis 2) is true.
        rounds: Rounds that the estimation took.
    """

    present: np.ndarray
    prior: np.ndarray
    confusion: np.ndarray
    rounds: int

    @classmethod
    def estimate(cls, votes: Votes) -> Reliability:
        """Estimate it from all voxels of an image."""
        present, found = np.unique(votes.labels, return_inverse=True)
        places = found.reshape(votes.labels.shape)
        counts = np.stack([np.bincount(column, votes.counts, len(present)) for column in places.T]).sum(axis=0)
        guess = cls(present, counts / counts.sum(), _from_majority(places, votes.counts, len(present)), 0)
        for _ in range(MOST_ROUNDS):
            before, guess = guess, guess._next(places, votes.counts)
            if np.abs(guess.confusion - before.confusion).max() < PRECISE:
                break
        return guess

    def _next(self, places: np.ndarray, counts: np.ndarray) -> Reliability:
        """The estimate after another round: how often each member gives each label where another is likely true."""
        k, new = len(self.present), np.zeros_like(self.confusion)
        for start, likely in self._posteriors(places):
            part = slice(start, start + len(likely))
            likely = likely * counts[part, np.newaxis]
            for table, own in zip(new, places[part].T, strict=True):
                table += np.stack([np.bincount(own, likely[:, j], k) for j in range(k)], axis=1)
        sums = new.sum(axis=1, keepdims=True)
        np.divide(new, sums, out=new, where=sums > 0)
        return replace(self, confusion=new, rounds=self.rounds + 1)

    def decide(self, votes: np.ndarray) -> np.ndarray:
        """The most likely label of each combination of votes; the majority's if several are equally likely.

        Args:
            votes: (U, M), of the labels that are present.

        Returns:
            (U,).
        """
        places = np.searchsorted(self.present, votes)
        result = majority(votes, [1] * votes.shape[1])
        for start, likely in self._posteriors(places):
            best = likely.max(axis=1, keepdims=True)
            alone = (likely >= best * (1 - EQUAL)).sum(axis=1) == 1
            rows = start + np.flatnonzero(alone)
            result[rows] = self.present[likely[alone].argmax(axis=1)]
        return result

    def _posteriors(self, places: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Probabilities (…, K) of the labels for combinations of votes, in parts: first row, and the part.

        They are 0 where no label could lead to these votes.
        """
        step = max(1, AT_ONCE // len(self.present))
        for start in range(0, len(places), step):
            yield start, self._posterior(places[start : start + step])

    def _posterior(self, places: np.ndarray) -> np.ndarray:
        likely = np.repeat(self.prior[np.newaxis], len(places), axis=0)
        for table, column in zip(self.confusion, places.T, strict=True):
            likely *= table[column]
        sums = likely.sum(axis=1, keepdims=True)
        np.divide(likely, sums, out=likely, where=sums > 0)
        return likely


def _from_majority(places: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """The first guess (M, K, K): what the majority says where a member gives a label. Voxels without one count too."""
    sums = np.zeros((len(places), k), np.int64)
    for column in places.T:
        sums[np.arange(len(places)), column] += 1
    best = sums.max(axis=1, keepdims=True)
    voted = np.where((sums == best).sum(axis=1) == 1, sums.argmax(axis=1), k)  # k: undecided
    tables = []
    for column in places.T:
        table = np.bincount(column * (k + 1) + voted, counts, k * (k + 1)).reshape(k, k + 1)
        total = table.sum(axis=1, keepdims=True)
        tables.append(np.divide(table, total, out=np.zeros_like(table), where=total > 0)[:, :k])
    return np.stack(tables)
