"""Tells where a training stands while it runs, when it will end, and where its time goes."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from segflow.core.wording import counted, duration_text, moment_text
from segflow.execution.machine import processor_count
from segflow.execution.progress import Progress, TrainingEvent, silent
from segflow.training.epoch_times import EpochTimes, shares_text
from segflow.training.forecast import Forecast
from segflow.training.time_budget import TimeBudget

logger = logging.getLogger(__name__)

EVERY_SECONDS = 0.5
"""Seconds between two events."""

LOSS_EVERY_SECONDS = 2.0
"""Seconds between two looks at the loss, each of which waits for the device."""

WAITS_SHARE = 0.1
"""Share of the time in waiting for data that is worth a piece of advice."""
WAITS_SECONDS = 60.0
"""What the waiting costs at least until the end of the training, for a piece of advice."""


class EpochProgress(Callback):
    """Measures the epochs, and reports where the training stands.

    It stands before the callback that reports an epoch, which takes the time of waiting for data.

    Args:
        progress: Called several times in an epoch.
        val_steps: Validation batches of an epoch.
        scratch: Whether the arrays lie on a disk of this machine that the settings name.
        cases_after: Whole validation cases that are predicted after the training.
    """

    def __init__(
        self, progress: Progress = silent, *, val_steps: int = 0, scratch: bool = False, cases_after: int = 0
    ) -> None:
        self._progress = progress
        self._val_steps = val_steps
        self._scratch = scratch
        self._cases_after = cases_after
        self._has_forecast = False
        self._times = EpochTimes(1, 1, 0)
        self._began = 0.0
        self._told = self._looked = -math.inf
        self._loss: float | None = None
        self._step = 0
        self._said = False

    def end_text(self, trainer: pl.Trainer) -> str:
        """``1 h 12 min left, ends 18:40``; empty before the end can be estimated."""
        ends = trainer.should_stop or trainer.current_epoch + 1 >= _epochs(trainer)
        return "" if ends else rest_text(self._rest(trainer))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.monotonic()
        every = trainer.check_val_every_n_epoch or 1
        self._times = EpochTimes(_epochs(trainer), int(trainer.num_training_batches), self._val_steps, every)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._times.begin(trainer.current_epoch, time.monotonic())
        self._step, self._loss = 0, None
        if self._times.measured == 2:  # the first one of a start is not like the others
            self._tell_where_time_goes(trainer, pl_module)
        self._report(trainer, pl_module, now=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._times.step(time.monotonic())
        self._step = batch_idx + 1
        self._forecast(trainer, is_last=self._step == int(trainer.num_training_batches))
        self._report(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._times.begin_validation(time.monotonic())

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._times.val_step(time.monotonic())
        self._report(trainer, pl_module, validated=batch_idx + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        waited = float(_data(trainer).train_loader.wait_seconds)
        self._times.end_steps(time.monotonic(), waited)
        self._report(trainer, pl_module, now=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._times.end(time.monotonic())
        shares = shares_text(self._times.shares())
        if trainer.is_global_zero and shares:
            took = duration_text(time.monotonic() - self._began)
            logger.info("trained %s in %s: %s", counted(self._times.measured, "epoch"), took, shares)

    def _report(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, validated: int | None = None, now: bool = False
    ) -> None:
        clock = time.monotonic()
        if self._progress is silent or not trainer.is_global_zero or not (now or clock - self._told > EVERY_SECONDS):
            return
        self._told = clock
        if clock - self._looked > LOSS_EVERY_SECONDS:
            self._looked = clock
            self._loss = pl_module.train_loss_so_far()  # type: ignore[operator]
        steps, epoch = int(trainer.num_training_batches), trainer.current_epoch
        validates = validated is not None
        self._progress(
            TrainingEvent(
                "train",
                f"epoch {epoch + 1}/{_epochs(trainer)}",
                epoch * steps + self._step,
                _epochs(trainer) * steps,
                epoch=epoch + 1,
                epochs=_epochs(trainer),
                step=validated if validated is not None else self._step,
                steps=self._val_steps if validates else steps,
                validates=validates,
                loss=self._loss,
                dice=_dice(trainer),
                step_seconds=self._times.step_seconds,
                rest_seconds=self._rest(trainer),
                shares=self._times.shares(),
            )
        )

    def _forecast(self, trainer: pl.Trainer, *, is_last: bool) -> None:
        """Say in the first epoch of this start what the training will come to, once enough steps are measured."""
        times = self._times
        if self._has_forecast or not trainer.is_global_zero or times.step_seconds is None:
            return
        budget = self._left_of_budget(trainer)
        forecast = Forecast(
            step_seconds=times.step_seconds,
            measured=times.steps_measured,
            rest_seconds=times.rest(time.monotonic()) or 0.0,
            epoch_seconds=times.epoch_seconds or 0.0,
            epochs=_epochs(trainer) - trainer.current_epoch,
            planned_epochs=_epochs(trainer),
            steps=int(trainer.num_training_batches),
            budget_seconds=budget,
            cases_after=self._cases_after,
        )
        if forecast.is_sure or is_last:
            self._has_forecast = True
            if text := forecast.text():
                logger.info("%s", text)

    def _left_of_budget(self, trainer: pl.Trainer) -> float | None:
        """Seconds that ``trainer.max_time`` leaves; None without one."""
        budgets = [c for c in trainer.callbacks if isinstance(c, TimeBudget)]  # type: ignore[attr-defined]
        return min((max(0.0, budget.seconds - budget.used) for budget in budgets), default=None)

    def _rest(self, trainer: pl.Trainer) -> float | None:
        """Estimated seconds until the end of the last epoch, or of the time that the training is given."""
        known = [self._times.rest(time.monotonic()), self._left_of_budget(trainer)]
        return min((seconds for seconds in known if seconds is not None), default=None)

    def _tell_where_time_goes(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._said or not trainer.is_global_zero:
            return
        self._said = True
        shares = self._times.shares()
        logger.info("time of an epoch: %s", shares_text(shares))
        lost = shares.get("data", 0.0) * (self._rest(trainer) or 0.0)
        if shares.get("data", 0.0) < WAITS_SHARE or lost < WAITS_SECONDS:
            return
        on_gpu = trainer.strategy.root_device.type != "cpu"
        advice = advice_for_data(
            workers=_data(trainer).workers,
            processors=max(1, processor_count() // max(1, trainer.num_devices)),
            on_gpu=on_gpu,
            augments_on_device=getattr(pl_module, "augmentation", None) is not None,
            scratch=self._scratch,
        )
        if advice:
            waits = f"{shares['data']:.0%} of the time"
            logger.warning("the network waits for data %s, %s until the end. %s", waits, duration_text(lost), advice)


def advice_for_data(*, workers: int, processors: int, on_gpu: bool, augments_on_device: bool, scratch: bool) -> str:
    """What to change if the network waits for data; empty if nothing is known to help.

    Args:
        workers: Processes that make batches.
        processors: Processors for this training process and its workers.
        on_gpu: The network runs on a GPU, so that it needs few processors.
        augments_on_device: The device augments.
        scratch: The arrays are read from a disk of this machine that the settings name.
    """
    if not on_gpu:
        few = workers == 0 and processors >= 4
        return f"Set training.num_workers={processors // 4}: this machine has {processors} processors." if few else ""
    if workers < processors - 1:
        more = f"training.num_workers={processors - 1}"
        return f"Raise the number of data workers, now {workers}: {more} for {processors} processors."
    if not augments_on_device:
        return f"All {processors} processors make data. Augment on the GPU: training.augmentation_device=device."
    if not scratch:
        return "If the arrays lie on a shared disk, name a folder on a disk of this machine: paths.scratch=FOLDER."
    return f"All {processors} processors make data: give the job more of them."


def rest_text(seconds: float | None) -> str:
    """``1 h 12 min left, ends 18:40``; empty if nothing is known."""
    return "" if seconds is None else f"{duration_text(seconds)} left, ends {moment_text(seconds)}"


def _epochs(trainer: pl.Trainer) -> int:
    return max(int(trainer.max_epochs or 1), trainer.current_epoch + 1)


def _data(trainer: pl.Trainer) -> Any:
    return trainer.datamodule  # type: ignore[attr-defined]


def _dice(trainer: pl.Trainer) -> float | None:
    """The moving average of the pseudo-Dice, which is logged after each validation."""
    value = trainer.callback_metrics.get("val/dice_ema")
    return None if value is None or not math.isfinite(value) else float(value)
