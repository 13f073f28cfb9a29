"""How long the parts of an epoch take, and how long a training still takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

UNEVEN = 3
"""First steps of a start that say little about the others: they load kernels, compile, and fill queues."""

RECENT = 5
"""Epochs whose mean is the estimate of the next ones, since a machine's speed may change over days."""

VALIDATION_STEP = 1 / 3
"""Assumed time of a validation step in training steps, until the first validation: it has no backward pass."""


@dataclass(frozen=True, slots=True)
class _Epoch:
    """Seconds of the parts of a whole epoch; ``validation`` is None for one without."""

    train: float
    waited: float
    validation: float | None
    files: float


class EpochTimes:
    """Measures epochs, and estimates the rest of the training from those of this start.

    Moments are seconds of any clock, in the order of the calls.

    Args:
        epochs: Epochs of the training.
        steps: Training batches of an epoch.
        val_steps: Validation batches of an epoch; 0 if there is no validation.
        validate_every: Epochs from one validation to the next.
    """

    def __init__(self, epochs: int, steps: int, val_steps: int, validate_every: int = 1) -> None:
        self._epochs, self._steps, self._val_steps = epochs, steps, val_steps
        self._every = max(1, validate_every)
        self._measured: list[_Epoch] = []
        self._epoch = 0
        self._began = 0.0
        self._steps_at: list[float] = []
        self._val_steps_at: list[float] = []
        self._validates_since: float | None = None
        self._ended: float | None = None
        self._waited = 0.0

    def begin(self, epoch: int, now: float) -> None:
        """An epoch begins, and with it the one before has written its files.

        Args:
            epoch: Its number, from 0.
            now: The moment.
        """
        if self._ended is not None:
            self.end(now)
        self._epoch, self._began = epoch, now
        self._steps_at, self._val_steps_at = [], []
        self._validates_since = self._ended = None

    def step(self, now: float) -> None:
        """A training step is done."""
        self._steps_at.append(now)

    def begin_validation(self, now: float) -> None:
        """The validation of patches begins."""
        self._validates_since = now

    def val_step(self, now: float) -> None:
        """A validation step is done."""
        self._val_steps_at.append(now)

    def end_steps(self, now: float, waited: float) -> None:
        """All steps of the epoch are done, and so is its validation. What follows writes its files.

        Args:
            now: The moment.
            waited: Seconds of the training steps in which the network waited for data.
        """
        self._ended, self._waited = now, waited

    def end(self, now: float) -> None:
        """The files of the epoch are written."""
        if self._ended is None:
            return
        since, ended = self._validates_since, self._ended
        train = (ended if since is None else since) - self._began
        validation = None if since is None else ended - since
        self._measured.append(_Epoch(train, min(self._waited, train), validation, now - ended))
        self._ended = None

    @property
    def step_seconds(self) -> float | None:
        """Seconds of a training step in this epoch, or in those before; None before it is measured."""
        first = self._began
        at = self._steps_at
        if not self._measured and at:  # the first epoch of this start
            if len(at) <= UNEVEN:
                return None
            first, at = at[UNEVEN - 1], at[UNEVEN:]
        if at:
            return (at[-1] - first) / len(at)
        recent = self._recent()
        return fmean(epoch.train for epoch in recent) / self._steps if recent else None

    def rest(self, now: float) -> float | None:
        """Estimated seconds until the last epoch ends; None before there is a measurement."""
        step = self.step_seconds
        if step is None:
            return None
        recent = self._recent()
        train = fmean(epoch.train for epoch in recent) if recent else step * self._steps
        files = fmean(epoch.files for epoch in recent) if recent else 0.0
        validation = self._validation(step)
        later = self._epochs - self._epoch - 1
        validated = self._epochs // self._every - (self._epoch + 1) // self._every
        rest = later * (train + files) + validated * validation
        return rest + self._rest_of_epoch(now, train / self._steps, validation, files)

    def shares(self) -> dict[str, float]:
        """Share of the time that each part of an epoch takes, in all but the first epoch of this start."""
        epochs = self._measured[1:] or self._measured
        waited = sum(epoch.waited for epoch in epochs)
        parts = {
            "network": sum(epoch.train for epoch in epochs) - waited,
            "data": waited,
            "validation": sum(epoch.validation or 0.0 for epoch in epochs),
            "files": sum(epoch.files for epoch in epochs),
        }
        total = sum(parts.values())
        return {name: seconds / total for name, seconds in parts.items()} if total > 0 else {}

    @property
    def steps_measured(self) -> int:
        """Number of steps of the present epoch that `step_seconds` is the mean of, if it is the first of this start."""
        return max(0, len(self._steps_at) - UNEVEN)

    @property
    def epoch_seconds(self) -> float | None:
        """Seconds of a mean epoch with its share of validation; None before there is a measurement."""
        step = self.step_seconds
        if step is None:
            return None
        recent = self._recent()
        train = fmean(epoch.train for epoch in recent) if recent else step * self._steps
        files = fmean(epoch.files for epoch in recent) if recent else 0.0
        return train + files + self._validation(step) / self._every

    @property
    def measured(self) -> int:
        """Number of whole epochs of this start."""
        return len(self._measured)

    def _rest_of_epoch(self, now: float, step: float, validation: float, files: float) -> float:
        if self._ended is not None:
            return max(0.0, files - (now - self._ended))
        validates = self._val_steps > 0 and (self._epoch + 1) % self._every == 0
        if self._validates_since is None:
            return (self._steps - len(self._steps_at)) * step + (validation if validates else 0.0) + files
        if self._val_steps_at and not self._has_validated():
            each = (self._val_steps_at[-1] - self._validates_since) / len(self._val_steps_at)
            return (self._val_steps - len(self._val_steps_at)) * each + files
        return max(0.0, validation - (now - self._validates_since)) + files

    def _validation(self, step: float) -> float:
        """Seconds of a validation."""
        validations = [epoch.validation for epoch in self._measured if epoch.validation is not None]
        return fmean(validations) if validations else step * VALIDATION_STEP * self._val_steps

    def _has_validated(self) -> bool:
        return any(epoch.validation is not None for epoch in self._measured)

    def _recent(self) -> Sequence[_Epoch]:
        return (self._measured[1:] or self._measured)[-RECENT:]


def shares_text(shares: Mapping[str, float]) -> str:
    """``network 81%, data 3%, validation 12%, files 4%``; empty without shares."""
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
