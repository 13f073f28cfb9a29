"""Training within a time budget: the schedule ends with the time."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from segflow.core.errors import SegflowError
from segflow.core.wording import duration_text
from segflow.training.epoch_times import VALIDATION_STEP
from segflow.training.schedule import EpochSchedule

logger = logging.getLogger(__name__)

NEAR_THE_END = 0.01
"""Share of the budget that is not worth another epoch."""

CLOSING_SHARE = 0.25
"""Largest share of the budget that is kept for what follows the last step."""

AGREE_EVERY = 10
"""Batches after which several processes agree on the time that is used."""

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
        with contextlib.suppress(TypeError, ValueError, OverflowError):
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
    """Places every step in the schedule by the share of the time that is used, and ends the training with the time.

    What follows the last step (validation batches, pictures, the checkpoint) counts. It is expected to take as long as
    after the last epoch; in the first one it is estimated from the steps. Earlier starts of the run count too. What
    comes after the training, such as the prediction of validation cases, does not.

    Args:
        seconds: The budget.
        val_steps: Validation batches of an epoch.

    Attributes:
        seconds: The budget.
        is_used_up: Whether it ended the training.
    """

    def __init__(self, seconds: float, val_steps: int = 0) -> None:
        self.seconds = seconds
        self.is_used_up = False
        self._val_steps = val_steps
        self._before = 0.0
        self._begun = 0.0
        self._stepped_at: float | None = None
        self._step_seconds: float | None = None
        self._closing_seconds: float | None = None
        self._warned = False

    @property
    def used(self) -> float:
        """Seconds trained so far, including earlier starts."""
        return self._before + time.monotonic() - self._begun

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = self.used
        if self._stepped_at is not None:
            self._closing_seconds = now - self._stepped_at
        self._stepped_at = now
        self._go_on(trainer, trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._measure_step(self.used, first=batch_idx == 0)
        batches = int(trainer.num_training_batches)
        if trainer.world_size > 1 and (batch_idx + 1) % AGREE_EVERY and batch_idx + 1 < batches:
            return
        is_up = self._go_on(trainer, trainer.current_epoch + (batch_idx + 1) / batches)
        if is_up:
            self._end(trainer, batch_idx + 1, batches)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._stepped_at is not None:
            self._closing_seconds = self.used - self._stepped_at  # the checkpoint, which follows, knows it too
        left = self.seconds - self.used - self._closing
        near = bool(trainer.strategy.broadcast(left < NEAR_THE_END * self.seconds))
        if near and not trainer.should_stop and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            trainer.should_stop = self.is_used_up = True
        if self.is_used_up:
            logger.info("trainer.max_time is used up in epoch %d", trainer.current_epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        return {"used": self.used, "step_seconds": self._step_seconds, "closing_seconds": self._closing_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = float(state_dict["used"])
        self._step_seconds = state_dict.get("step_seconds")
        self._closing_seconds = state_dict.get("closing_seconds")

    @property
    def _closing(self) -> float:
        """Seconds to keep for what follows the last step."""
        seconds = self._closing_seconds
        if seconds is None:
            seconds = VALIDATION_STEP * self._val_steps * (self._step_seconds or 0.0)
        most = CLOSING_SHARE * self.seconds
        if seconds > most and not self._warned:
            self._warned = True
            logger.warning(
                "validation of patches takes about %s of the %s of trainer.max_time, and may exceed it: "
                "trainer.limit_val_batches=%d leaves time for training",
                duration_text(seconds),
                duration_text(self.seconds),
                max(1, int(self._val_steps * 0.1 * self.seconds / seconds)),
            )
        return min(seconds, most)

    def _measure_step(self, now: float, *, first: bool) -> None:
        took = now - (self._stepped_at or 0.0)
        self._stepped_at = now
        # The first step of an epoch waits for data and loads kernels.
        before = None if first and self._step_seconds is None else self._step_seconds
        self._step_seconds = took if before is None else 0.9 * before + 0.1 * took

    def _go_on(self, trainer: pl.Trainer, epochs: float) -> bool:
        """Place the schedule, in all processes alike. Returns whether the time for steps is used up."""
        time_for_steps = self.seconds - self._closing
        share, is_up = trainer.strategy.broadcast(
            (self.used / time_for_steps, self.used + 0.5 * (self._step_seconds or 0.0) >= time_for_steps)
        )
        schedule = trainer.lr_scheduler_configs[0].scheduler
        if isinstance(schedule, EpochSchedule):
            schedule.move_to(max(share, epochs / schedule.planned_epochs))
        return bool(is_up)

    def _end(self, trainer: pl.Trainer, batch: int, batches: int) -> None:
        """End the training after this batch, as after the last one of an epoch."""
        is_whole = batch == batches
        trainer.should_stop = True
        self.is_used_up = not is_whole or trainer.current_epoch + 1 < (trainer.max_epochs or 0)
        if is_whole:
            return
        # Lightning continues a checkpoint within an epoch there; a run with more time begins the next epoch.
        trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = True
        schedule = trainer.lr_scheduler_configs[0].scheduler
        if isinstance(schedule, EpochSchedule):
            schedule.step()
