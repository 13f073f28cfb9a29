"""A run that was finished before: what is said of it, and whether it is to be longer."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from segflow.storage.json_files import read_json
from segflow.storage.run_folder import RunFolder
from segflow.training.protocols import TrainResult
from segflow.training.time_budget import parse_duration

logger = logging.getLogger(__name__)


def goes_on(folder: RunFolder, options: Mapping[str, Any], *, extend: bool) -> bool:
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
    if max_epochs > int(facts.get("max_epochs") or 0):
        return True
    if not extend or not _time_was_up(facts):
        return False
    max_time = options.get("max_time")
    return max_time is None or parse_duration(max_time) > facts["max_time_seconds"]


def finished_before(folder: RunFolder) -> TrainResult:
    """The result of a run that was finished by an earlier start."""
    facts = _read_facts(folder)
    epochs, wanted = facts.get("epochs"), facts.get("max_epochs", facts.get("epochs"))
    ended = f"{epochs} epochs" if epochs == wanted else f"ended early, after {epochs} of {wanted} epochs"
    logger.info("%s is finished (%s); nothing to do", folder.path, ended)
    if _time_was_up(facts):
        logger.info("trainer.max_time ended it: a longer one, or none, with training.extend=true goes on")
    metrics = {tag: math.nan if value is None else float(value) for tag, value in facts.get("metrics", {}).items()}
    return TrainResult(folder.path, True, int(facts.get("epochs") or 0), metrics, trained=False)


def _read_facts(folder: RunFolder) -> dict[str, Any]:
    return dict(read_json(folder.finished_file))


def _time_was_up(facts: Mapping[str, Any]) -> bool:
    return facts.get("max_time_seconds") is not None and facts["epochs"] < facts["max_epochs"]
