"""Channels of training samples: those that a case lacks, and those that are taken away at random (modality dropout)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segflow.storage.stored_case import StoredCase


@dataclass(frozen=True, slots=True)
class ChannelPresence:
    """Chooses which channels of a sample are there.

    Attributes:
        probabilities: For each channel, the probability that it is taken away.
        together: Groups of channels that are taken away together, by their numbers. A group has the probability of its
            first channel, which is that of all of them. Channels of no group go by themselves.
    """

    probabilities: tuple[float, ...]
    together: tuple[tuple[int, ...], ...] = ()

    def __call__(self, case: StoredCase, generator: np.random.Generator) -> np.ndarray:
        """Whether each channel is there, bool (C,); at least one is, if the case has any.

        Args:
            case: The stored case. What it lacks is not there.
            generator: Source of randomness.
        """
        present = np.ones(len(self.probabilities), bool)
        present[list(case.missing)] = False
        if not any(self.probabilities):
            return present
        drawn = generator.random(len(present)) < self.probabilities
        for group in self.together:
            drawn[list(group)] = drawn[group[0]]
        kept = present & ~drawn
        if kept.any():
            return kept
        spared = int(generator.choice(np.flatnonzero(present)))
        with_it: Sequence[int] = next((group for group in self.together if spared in group), (spared,))
        kept[list(with_it)] = present[list(with_it)]
        return kept
