"""The learning rate of stochastic weight averaging, which stays up in the last part of the run."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from segflow.core.errors import SegflowError
from segflow.training.schedule import PolynomialDecay

TINY = 1e-6
"""Epochs; larger than rounding errors."""


class SwaRate(PolynomialDecay):
    """`PolynomialDecay` up to a share of the run, then a constant rate, or one that goes in cycles (arXiv 1803.05407).

    A cycle falls linearly from the rate at its first epoch to ``lowest`` times the rate at its last one.

    Args:
        optimizer, total_epochs, exponent, warmup_epochs: See `PolynomialDecay`.
        start: Share of the run at which the decay stops.
        rate: The rate from there on, as a factor on the full rate; None keeps that of the decay at ``start``.
        cycles: Cycles between ``start`` and the end of the run; 0: the rate is constant.
        lowest: Factor on ``rate`` at the end of a cycle.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_epochs: int,
        *,
        exponent: float = 0.9,
        warmup_epochs: int = 0,
        start: float = 0.75,
        rate: float | None = None,
        cycles: int = 0,
        lowest: float = 0.05,
    ) -> None:
        if not 0 <= start < 1:
            raise SegflowError("schedule.start must be a share of the run, from 0 to below 1", found=start)
        if cycles < 0 or not 0 < lowest <= 1 or (rate is not None and rate <= 0):
            raise SegflowError(
                "schedule: cycles must be 0 or more, lowest above 0 up to 1, and rate above 0",
                found=f"cycles {cycles}, lowest {lowest}, rate {rate}",
            )
        self.start, self.rate, self.cycles, self.lowest = start, rate, cycles, lowest
        super().__init__(optimizer, total_epochs, exponent=exponent, warmup_epochs=warmup_epochs)

    def decay(self, progress: float) -> float:
        epoch = self.warmup_epochs + progress * (self.planned_epochs - self.warmup_epochs) + TINY
        if epoch < self._first:
            return super().decay(progress)
        held = super().decay(self._progress_at_start()) if self.rate is None else self.rate
        if not self.cycles:
            return held
        length = self._cycle_epochs()
        passed = (epoch - self._first) % length
        share = min(1.0, math.floor(passed) / max(1.0, math.ceil(length) - 1))
        return held * (1.0 - share * (1.0 - self.lowest))

    def ended_cycles(self, epoch: int) -> int:
        """Cycles that are over at the end of this epoch."""
        passed = self.ended(epoch) - self._first
        return max(0, math.floor(passed / self._cycle_epochs() + TINY)) if self.cycles else 0

    @property
    def _first(self) -> float:
        return self.start * self.planned_epochs

    def _cycle_epochs(self) -> float:
        return max(1.0, (1.0 - self.start) * self.planned_epochs / self.cycles)

    def _progress_at_start(self) -> float:
        length = self.planned_epochs - self.warmup_epochs
        return min(max((self._first - self.warmup_epochs) / length, 0.0), 1.0) if length > 0 else 1.0
