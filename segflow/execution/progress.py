"""Progress of long work, reported to the caller, who draws it as a bar or log line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One finished step.

    Attributes:
        stage: The work, in one word for the user ("measure", "preprocess", "predict").
        name: The case (or tile, or epoch) that was just finished; empty for the first event of a stage.
        done: Number of finished steps, ``0 <= done <= total``.
        total: Number of all steps; 0 while it is not known.
        failed: Number of those among ``done`` that failed.
    """

    stage: str
    name: str
    done: int
    total: int
    failed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingEvent(ProgressEvent):
    """Where a training stands. ``done`` and ``total`` count the batches of all epochs.

    Attributes:
        epoch: Number of the present epoch, from 1.
        epochs: Number of all epochs.
        step: Batches that are done in this part of the epoch.
        steps: All batches of this part of the epoch.
        validates: Whether this part of the epoch is the validation of patches.
        loss: Mean training loss of this epoch so far; None before the first value.
        dice: The moving average of the pseudo-Dice; None before the first validation.
        step_seconds: Seconds of a training step; None before it is measured.
        rest_seconds: Estimated seconds until the last epoch ends; None before it can be estimated.
        shares: Part of an epoch ("data", "network", "validation", "files") → its share of the time. Empty before it
            is measured.
    """

    epoch: int = 1
    epochs: int = 1
    step: int = 0
    steps: int = 0
    validates: bool = False
    loss: float | None = None
    dice: float | None = None
    step_seconds: float | None = None
    rest_seconds: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)


Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Ignore the event."""
