"""Draws with replacement of many more than there are: how often each one is drawn.

They equal those of ``RandomState(1234).randint(0, n, samples)``, which cuts each 32-bit number of its sequence to the
bits of n - 1, and passes over those that are not below n. Every case starts the same sequence. For a few thousand
voxels its numbers are therefore counted once per process, part by part, and a case looks its counts up.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

_SEED = 1234
_PART = 1 << 15
"""Numbers that are counted together."""
_LENGTH = 40 * _PART
"""Numbers of the sequence that are kept: enough for 200 cases, each of one channel."""
_MOST_BITS = 13
"""Bits of a draw for which counts are kept. The table of `_counts_before` grows with their power of two."""
_DRAWS_AT_ONCE = 1 << 22


class RepeatedDraws:
    """The draws of one case, one channel after the other."""

    def __init__(self) -> None:
        self._used = 0
        self._generator: np.random.RandomState | None = None

    def counts(self, n: int, samples: int) -> np.ndarray:
        """Draw ``samples`` times from ``range(n)``, and count. int64 (n,)."""
        if n == 1:
            return np.array([samples], np.int64)
        if self._generator is None:
            found = self._look_up(n, samples)
            if found is not None:
                return found
        generator = self._generator_at()
        drawn = np.zeros(n, np.int64)
        at_once = max(_DRAWS_AT_ONCE, n)
        for start in range(0, samples, at_once):
            indices = generator.randint(0, n, size=min(at_once, samples - start))
            drawn += np.bincount(indices, minlength=n)
        return drawn

    def drawn(self, n: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw ``samples`` times from ``range(n)``. Memory grows with the smaller one of ``n`` and ``samples``.

        Returns:
            What was drawn, ascending, and how often, int64: (m,) and (m,).
        """
        if n <= max(samples, _DRAWS_AT_ONCE):
            counts = self.counts(n, samples)
            present = np.flatnonzero(counts)
            return present, counts[present]
        generator = self._generator_at()
        indices = np.empty(samples, np.uint32 if n <= 1 << 32 else np.int64)
        for start in range(0, samples, _DRAWS_AT_ONCE):
            part = indices[start : start + _DRAWS_AT_ONCE]
            part[...] = generator.randint(0, n, size=len(part))
        indices.sort()
        first = np.flatnonzero(np.concatenate(([True], indices[1:] != indices[:-1])))[: len(indices)]
        return indices[first].astype(np.int64), np.diff(first, append=len(indices))

    def _generator_at(self) -> np.random.RandomState:
        """The generator, behind the numbers that were used."""
        if self._generator is None:
            self._generator = np.random.RandomState(_SEED)
            self._generator.randint(0, 1 << 32, size=self._used, dtype=np.uint32)
        return self._generator

    def _look_up(self, n: int, samples: int) -> np.ndarray | None:
        """The counts from the kept part of the sequence; None if that does not reach."""
        bits = (n - 1).bit_length()
        if bits > _MOST_BITS or self._used + samples > _LENGTH:
            return None
        table = _counts_before(bits)[:, :n]
        before = self._until(bits, n, self._used)
        totals = table.sum(axis=1)
        wanted = int(before.sum()) + samples
        part = int(np.searchsorted(totals, wanted)) - 1  # in it lies the last draw
        if part == len(totals) - 1:
            return None
        fitting = np.flatnonzero(_cut(bits, part * _PART, (part + 1) * _PART) < n)
        self._used = part * _PART + int(fitting[wanted - totals[part] - 1]) + 1
        found: np.ndarray = self._until(bits, n, self._used) - before
        return found

    def _until(self, bits: int, n: int, end: int) -> np.ndarray:
        """Counts of 0 to n - 1 among the first ``end`` numbers. int64 (n,)."""
        part = end // _PART
        rest = np.bincount(_cut(bits, part * _PART, end), minlength=1 << bits)
        return np.asarray(_counts_before(bits)[part, :n] + rest[:n], np.int64)


@cache
def _numbers() -> np.ndarray:
    return np.random.RandomState(_SEED).randint(0, 1 << 32, size=_LENGTH, dtype=np.uint32)


def _cut(bits: int, start: int, end: int) -> np.ndarray:
    return _numbers()[start:end] & np.uint32((1 << bits) - 1)


@lru_cache(maxsize=4)
def _counts_before(bits: int) -> np.ndarray:
    """How often each number occurs before each part, and in all. int32 (parts + 1, 2 ** bits)."""
    starts = range(0, _LENGTH, _PART)
    counts = [np.bincount(_cut(bits, start, start + _PART), minlength=1 << bits) for start in starts]
    return np.cumsum([np.zeros_like(counts[0]), *counts], axis=0, dtype=np.int32)
