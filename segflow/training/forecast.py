"""What the planned training, or the time that it is given, will come to: said once, from steps that were measured."""

from __future__ import annotations

from dataclasses import dataclass

from segflow.core.wording import counted, duration_text, moment_text

ENOUGH_STEPS, ENOUGH_SECONDS = 10, 30.0
"""Steps, or seconds of steps, that are measured before anything is said."""
WORTH_SAYING = 60.0
"""Seconds; of a shorter training nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Measurements of a training that has begun, and what it was given.

    Attributes:
        step_seconds: Mean seconds of a step.
        measured: Steps that the mean is of.
        rest_seconds: Seconds until the last planned epoch ends.
        epoch_seconds: Seconds of an epoch with its validation.
        epochs: Epochs from now on, the present one included.
        planned_epochs: Epochs of the whole training.
        steps: Iterations of an epoch.
        budget_seconds: What is left of ``trainer.max_time``; None without one.
        cases_after: Whole validation cases that are predicted after the training.
    """

    step_seconds: float
    measured: int
    rest_seconds: float
    epoch_seconds: float
    epochs: int
    planned_epochs: int
    steps: int
    budget_seconds: float | None = None
    cases_after: int = 0

    @property
    def is_sure(self) -> bool:
        """Whether enough steps were measured."""
        return self.measured >= ENOUGH_STEPS or self.measured * self.step_seconds >= ENOUGH_SECONDS

    def text(self) -> str:
        """What to say, in one line; empty for a short training."""
        budget = self.budget_seconds
        ends_by_time = budget is not None and budget < self.rest_seconds
        seconds = budget if budget is not None and ends_by_time else self.rest_seconds
        if seconds < WORTH_SAYING:
            return ""
        each = f"{_step_text(self.step_seconds)} per iteration (mean of {self.measured})"
        planned = f"{self.planned_epochs:,} epochs of {self.steps:,} iterations"
        if ends_by_time:
            epochs = seconds / self.epoch_seconds
            share = epochs / self.planned_epochs
            what = (
                f"the {duration_text(seconds)} that trainer.max_time leaves are about "
                f"{_rounded(epochs * self.steps):,} iterations ({epochs:.3g} epochs), {share:.2g} times the planned "
                f"{planned}"
            )
        else:
            left = "" if self.epochs == self.planned_epochs else f" ({counted(self.epochs, 'epoch')} are left)"
            what = f"{planned}{left} take {duration_text(seconds)}"
        cases = counted(self.cases_after, "whole validation case")
        follows = f". The prediction of {cases} follows, and is not in it" if self.cases_after else ""
        return f"{each}: {what}, until {moment_text(seconds)}{follows}"


def _step_text(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _rounded(number: float) -> int:
    """Two digits, since more are not known."""
    return int(float(f"{number:.2g}"))
