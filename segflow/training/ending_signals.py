"""Signals that end a training, for one process and for several."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from segflow.execution.interrupts import EARLY_WARNINGS, SIGTERM_EXIT, exit_code_of_interrupt
from segflow.execution.place import is_started_by_lightning


class EndingSignals(Callback):
    """Treats a batch system's early warning (SIGUSR1, SIGUSR2 under SLURM) like SIGTERM.

    The current epoch is lost. Several processes end by their team, see `segflow.training.watch`: Lightning's own
    handler of SIGTERM would begin an exchange that the other processes do not expect, and hang.
    """

    def __init__(self) -> None:
        self._handler: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)
        if "SLURM_JOB_ID" not in os.environ:
            return
        for warning in EARLY_WARNINGS:
            signal.signal(warning, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if trainer.world_size > 1 and is_main and callable(self._handler):
            signal.signal(signal.SIGTERM, self._handler)


def exit_code_of(error: BaseException) -> int | None:
    """130 or 143 if a signal ended the training, else None. Lightning would exit with 1 or 0."""
    return SIGTERM_EXIT if isinstance(error, SIGTERMException) else exit_code_of_interrupt(error)


def leave_process_group() -> None:
    """Take ranks that Lightning started out of the parent's process group.

    A signal to the group then reaches rank 0, which ends the others. Windows has no such groups.
    """
    if sys.platform != "win32" and is_started_by_lightning() and os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
