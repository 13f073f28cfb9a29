"""What a launched job tells of its progress: a small file, for the table of the process that launched it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from segflow.execution.progress import ProgressEvent, TrainingEvent

STATE_FILE = "SEGFLOW_STATE_FILE"
"""Environment variable: the file into which a job writes its state."""

EVERY_SECONDS = 5.0
"""Seconds between two states of a job, since a cluster's folders may be slow."""

listeners: list[Callable[[JobState], None]] = []
"""Called with each state of a job that runs in this process."""

_written = -EVERY_SECONDS


@dataclass(frozen=True, slots=True)
class JobState:
    """Where a job stands.

    Attributes:
        stage: The work, in one word.
        done: Steps that are done; of a training, epochs.
        total: All steps.
        dice: The moving average of the pseudo-Dice; None without one.
        rest_seconds: Estimated seconds that the work still takes; None if nothing is known.
        time: When it was so, in seconds of the clock.
    """

    stage: str
    done: int
    total: int
    dice: float | None = None
    rest_seconds: float | None = None
    time: float = 0.0


def tell(event: ProgressEvent, rest_seconds: float | None) -> None:
    """Tell the state of this job to those who watch it. It is written every few seconds, and at the end of a stage.

    Args:
        event: The newest event.
        rest_seconds: Estimated seconds until its stage ends.
    """
    global _written
    file = os.environ.get(STATE_FILE)
    if not file and not listeners:
        return
    now = time.time()
    if isinstance(event, TrainingEvent):
        state = JobState(event.stage, event.epoch, event.epochs, event.dice, rest_seconds, now)
    else:
        state = JobState(event.stage, event.done, event.total, None, rest_seconds, now)
    for listener in listeners:
        listener(state)
    ends = event.done in (0, event.total)
    if file and (ends or time.monotonic() - _written >= EVERY_SECONDS):
        _written = time.monotonic()
        with suppress(OSError):  # a job does not fail for its picture
            temporary = Path(f"{file}.{os.getpid()}")
            temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
            temporary.replace(file)


def read_state(file: Path) -> JobState | None:
    """The last state of a job; None if it told none, or what is there cannot be read."""
    with suppress(OSError, ValueError, TypeError):
        content = json.loads(file.read_text(encoding="utf-8"))
        state = JobState(**content)
        return JobState(
            str(state.stage),
            int(state.done),
            int(state.total),
            None if state.dice is None else float(state.dice),
            None if state.rest_seconds is None else float(state.rest_seconds),
            float(state.time),
        )
    return None
