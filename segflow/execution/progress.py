"""How a door tells its caller how far it is; drawing it (bar or log line) is the caller's affair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One step done.

    Attributes:
        stage: What is being done, in one word that a person reads ("measure", "preprocess", "predict").
        name: The case (or tile, or epoch) that was just finished; empty for the first event of a stage.
        done: How many are finished, ``0 <= done <= total``.
        total: How many there are.
    """

    stage: str
    name: str
    done: int
    total: int


Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Report to nobody."""
