"""Runs that were finished by an earlier start: their result, and whether they are extended."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from segflow.core.plain_json import record_from
from segflow.storage.folds import Fold
from segflow.storage.json_files import read_json_as
from segflow.training.protocols import TrainResult
from segflow.training.time_budget import parse_duration

logger = logging.getLogger(__name__)


def goes_on(folder: Fold, options: Mapping[str, Any], *, extend: bool) -> bool:
    """Whether a finished run goes on: with more epochs, or with more time if its time had run out.

    Args:
        folder: Folder of the finished fold.
        options: Present options of Lightning's trainer.
        extend: The user allows it. Without it, more epochs were already refused.
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
    """Result of a run that was finished by an earlier start."""
    facts = _read_facts(folder)
    epochs = facts.epochs
    wanted = epochs if facts.max_epochs is None else facts.max_epochs
    ended = f"{epochs} epochs" if epochs == wanted else f"ended early, after {epochs} of {wanted} epochs"
    logger.info("%s is finished (%s); nothing to do", folder.path, ended)
    if facts.time_was_up:
        logger.info("trainer.max_time ended it: with training.extend=true and more time, or no limit, it goes on")
    return TrainResult(folder.path, True, epochs or 0, facts.last_metrics, trained=False)


@dataclass(frozen=True, slots=True)
class _Facts:
    """Content of ``finished.json``. That of an imported run has none of these values."""

    epochs: int | None = None
    max_epochs: int | None = None
    max_time_seconds: float | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def last_metrics(self) -> dict[str, float]:
        """Last value of each curve; NaN where it has none, which JSON has no number for."""
        return {tag: math.nan if number is None else number for tag, number in self.metrics.items()}

    @property
    def time_was_up(self) -> bool:
        """Whether ``trainer.max_time`` ended the run."""
        return self.max_time_seconds is not None and (self.epochs or 0) < (self.max_epochs or 0)


def _read_facts(folder: Fold) -> _Facts:
    return read_json_as(folder.finished_file, partial(record_from, kind=_Facts))
