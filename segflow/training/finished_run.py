"""A run that was finished before: what is said of it, and whether it is to be longer."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import index
from typing import Any

from segflow.storage.folds import Fold
from segflow.storage.json_files import read_json_as
from segflow.training.protocols import TrainResult
from segflow.training.time_budget import parse_duration

logger = logging.getLogger(__name__)


def goes_on(folder: Fold, options: Mapping[str, Any], *, extend: bool) -> bool:
    """Whether a finished run is to be longer: in epochs, or in time where that ended it.

    Args:
        folder: Of the finished run.
        options: Keywords of Lightning's trainer, as the user gives them now.
        extend: Whether the user asks for more; more epochs without it were refused before.
    """
    facts = _read_facts(folder)
    max_epochs = options.get("max_epochs")
    if not isinstance(max_epochs, int):
        return False
    if max_epochs > (facts.max_epochs or 0):
        return True
    if not extend or not facts.time_was_up:
        return False
    max_time = options.get("max_time")
    return max_time is None or parse_duration(max_time) > (facts.max_time_seconds or 0)


def finished_before(folder: Fold) -> TrainResult:
    """The result of a run that was finished by an earlier start."""
    facts = _read_facts(folder)
    epochs = facts.epochs
    wanted = epochs if facts.max_epochs is None else facts.max_epochs
    ended = f"{epochs} epochs" if epochs == wanted else f"ended early, after {epochs} of {wanted} epochs"
    logger.info("%s is finished (%s); nothing to do", folder.path, ended)
    if facts.time_was_up:
        logger.info("trainer.max_time ended it: a longer one, or none, with training.extend=true goes on")
    return TrainResult(folder.path, True, epochs or 0, facts.metrics, trained=False)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What ``finished.json`` says: of an imported run, nothing of all this."""

    epochs: int | None
    max_epochs: int | None
    max_time_seconds: float | None
    metrics: Mapping[str, float]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> _Facts:
        epochs, most, seconds = (value.get(key) for key in ("epochs", "max_epochs", "max_time_seconds"))
        return cls(
            epochs=None if epochs is None else index(epochs),
            max_epochs=None if most is None else index(most),
            max_time_seconds=None if seconds is None else float(seconds),
            metrics={
                tag: math.nan if number is None else float(number) for tag, number in value.get("metrics", {}).items()
            },
        )

    @property
    def time_was_up(self) -> bool:
        """Whether ``trainer.max_time`` ended the run."""
        return self.max_time_seconds is not None and (self.epochs or 0) < (self.max_epochs or 0)


def _read_facts(folder: Fold) -> _Facts:
    return read_json_as(folder.finished_file, _Facts.from_json)
