"""Progress of long work, reported to the caller, who draws it as a bar or log line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One finished step.

    Attributes:
        stage: The work, in one word for the user ("measure", "preprocess", "predict").
        name: The case (or tile, or epoch) that was just finished; empty for the first event of a stage.
        done: Number of finished steps, ``0 <= done <= total``.
        total: Number of all steps.
    """

    stage: str
    name: str
    done: int
    total: int


Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Ignore the event."""
