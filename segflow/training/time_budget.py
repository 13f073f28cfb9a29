"""Training within a time budget: the schedule ends with the time."""

from __future__ import annotations

import logging
import re
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from segflow.core.errors import SegflowError
from segflow.training.schedule import NEAR_THE_END, EpochSchedule

logger = logging.getLogger(__name__)

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}


def parse_duration(value: Any) -> float:
    """Seconds of ``2h``, ``1d 12h``, ``90m``, Lightning's ``DD:HH:MM:SS``, a timedelta or its keywords.

    Raises:
        SegflowError: It cannot be read, or is not positive.
    """
    seconds: float | None = None
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, dict):
        seconds = timedelta(**value).total_seconds()
    elif isinstance(value, str):
        text = value.strip().lower()
        if re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text):
            days, hours, minutes, rest = (int(part) for part in text.split(":"))
            seconds = ((days * 24 + hours) * 60 + minutes) * 60.0 + rest
        elif re.fullmatch(r"(\d+(\.\d+)?\s*(d|h|min|m|s)\s*)+", text):
            seconds = sum(float(n) * _UNITS[unit] for n, _, unit in re.findall(r"(\d+(\.\d+)?)\s*(d|h|min|m|s)", text))
    if not seconds or seconds <= 0:
        raise SegflowError(
            "trainer.max_time cannot be read", found=repr(value), expected="2h, 90m, 1d 12h, 00:02:00:00"
        )
    return seconds


class TimeBudget(Callback):
    """Moves the end of the schedule to the end of the time, and ends the training there.

    The duration of epochs is measured. The training ends when less than half an epoch is left, so it misses the budget
    by at most half an epoch. Earlier starts of the run count.

    Args:
        seconds: The budget.

    Attributes:
        seconds: The budget.
        is_used_up: Whether it ended the training.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_used_up = False
        self._before = 0.0
        self._epoch_seconds: float | None = None
        self._begun = 0.0
        self._epoch_begun = 0.0

    @property
    def used(self) -> float:
        """Seconds trained so far, including earlier starts."""
        return self._before + time.monotonic() - self._begun

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._epoch_begun = time.monotonic()
        left = trainer.strategy.broadcast(self._epochs_left())
        schedule = trainer.lr_scheduler_configs[0].scheduler
        if left is not None and isinstance(schedule, EpochSchedule):
            schedule.move_end(min(schedule.planned_epochs, trainer.current_epoch + max(1.0, left)))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.monotonic() - self._epoch_begun
        # Recent epochs count most, since a machine's speed may change over days.
        self._epoch_seconds = seconds if self._epoch_seconds is None else 0.7 * self._epoch_seconds + 0.3 * seconds
        left = trainer.strategy.broadcast(self._epochs_left())
        if left is not None and left < NEAR_THE_END:
            trainer.should_stop = self.is_used_up = True
            logger.info("trainer.max_time is used up after epoch %d", trainer.current_epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        return {"used": self.used, "epoch_seconds": self._epoch_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = float(state_dict["used"])
        self._epoch_seconds = state_dict["epoch_seconds"]

    def _epochs_left(self) -> float | None:
        return None if self._epoch_seconds is None else (self.seconds - self.used) / self._epoch_seconds
