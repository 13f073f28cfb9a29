"""Normalisation as one operation that is the same for every voxel, and sums over values that come in parts.

The sums do not depend on where the parts end. So an image that is read slab by slab is normalised like a whole one,
bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PART = 1 << 16
"""Number of values whose float64 copies fit into the cache. A multiple of the 8192 that numpy converts at once."""

Range = tuple[float, float]
"""Lowest and highest value."""


def range_of(values: np.ndarray) -> Range:
    """Lowest and highest of values (n,) or (Z, Y, X); NaN if one of them is."""
    return float(values.min()), float(values.max())


@dataclass(frozen=True, slots=True)
class Rescaling:
    """What happens to each value, in this order.

    Attributes:
        limits: Values are clipped to these; None leaves them.
        exponent: Power of two by which they are divided.
        shift: float32 that is subtracted.
        divisor: float32 by which they are divided; None makes all of them 0.
    """

    limits: Range | None = None
    exponent: int = 0
    shift: float = 0.0
    divisor: float | None = 1.0

    def apply(self, values: np.ndarray) -> None:
        """Change float32 values of any shape in place."""
        if self == UNCHANGED:
            return
        for part in _parts(values):
            if self.divisor is None:
                part[...] = 0
                continue
            if self.limits is not None:
                np.clip(part, *self.limits, out=part)
            if self.exponent:
                np.ldexp(part, -self.exponent, out=part)
            part -= np.float32(self.shift)
            part /= np.float32(self.divisor)

    def apply_to_range(self, limits: Range) -> Range:
        """Lowest and highest value afterwards. No rounding changes the order of values."""
        ends = np.array(limits, np.float32)
        self.apply(ends)
        return float(ends[0]), float(ends[1])


UNCHANGED = Rescaling()


class InOrder:
    """Hands values on in parts that begin at multiples of `PART`, however they come."""

    def __init__(self) -> None:
        self._kept = np.empty(PART, np.float32)
        self._count = 0

    def add(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """Take float32 values (n,), and yield what is complete, in arrays of a multiple of `PART` values."""
        if self._count:
            head = values[: PART - self._count]
            self._kept[self._count : self._count + len(head)] = head
            self._count += len(head)
            if self._count < PART:
                return
            yield self._kept
            self._count, values = 0, values[len(head) :]
        whole = len(values) // PART * PART
        if whole:
            yield values[:whole]
        self._count = len(values) - whole
        self._kept[: self._count] = values[whole:]

    def rest(self) -> np.ndarray:
        """The values (n,) that have not been handed on."""
        return self._kept[: self._count]


class Sum:
    """Sum of float32 values in float64, equal to that of numpy's ``mean`` over all of them in one array.

    Args:
        exponent: Power of two by which the values are divided first.
    """

    def __init__(self, exponent: int) -> None:
        self._exponent = exponent
        self._order = InOrder()
        self._total = 0.0
        self._values = 0

    def add(self, values: np.ndarray) -> None:
        """Take the next values (n,)."""
        self._values += len(values)
        for part in self._order.add(values):
            self._total = self._with(part)

    def mean(self) -> float:
        """The mean of all values so far."""
        return self._with(self._order.rest()) / self._values

    def _with(self, values: np.ndarray) -> float:
        values = np.ldexp(values, -self._exponent) if self._exponent else values
        return float(np.add.reduce(values, dtype=np.float64, initial=self._total))


class Squares:
    """Mean of squared differences of float32 values from a mean, summed in float64 part by part.

    It uses no dot product: idle BLAS threads would spin and slow down a network that computes at the same time.

    Args:
        exponent: Power of two by which the values are divided first.
        mean: float32 that is subtracted from them then.
    """

    def __init__(self, exponent: int, mean: float) -> None:
        self._exponent = exponent
        self._shift = np.float32(mean)
        self._order = InOrder()
        self._total = 0.0
        self._values = 0

    def add(self, values: np.ndarray) -> None:
        """Take the next values (n,)."""
        self._values += len(values)
        for parts in self._order.add(values):
            for start in range(0, len(parts), PART):
                self._total += self._of(parts[start : start + PART])

    def mean(self) -> float:
        """The mean of all squares so far."""
        return (self._total + self._of(self._order.rest())) / self._values

    def _of(self, values: np.ndarray) -> float:
        values = np.ldexp(values, -self._exponent) if self._exponent else values
        exact = (values - self._shift).astype(np.float64)
        return float(np.square(exact, out=exact).sum())


def _parts(values: np.ndarray) -> Iterator[np.ndarray]:
    """Views that cover an array, small enough for the cache if its memory is in order."""
    if not values.flags.c_contiguous:
        yield values
        return
    flat = values.reshape(-1)
    for start in range(0, flat.size, PART):
        yield flat[start : start + PART]
