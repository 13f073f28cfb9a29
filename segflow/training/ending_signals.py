"""Signals that end a training, for one process and for several."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from segflow.execution.interrupts import SIGTERM_EXIT, exit_code_of_interrupt


class EndingSignals(Callback):
    """Treats a batch system's early warning (SIGUSR1, SIGUSR2 under SLURM) like SIGTERM.

    Lightning ends the training after the current batch. The current epoch is lost.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "SLURM_JOB_ID" not in os.environ:
            return
        for warning in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(warning, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))


def exit_code_of(error: BaseException) -> int | None:
    """130 or 143 if a signal ended the training, else None. Lightning would exit with 1 or 0."""
    return SIGTERM_EXIT if isinstance(error, SIGTERMException) else exit_code_of_interrupt(error)


@contextmanager
def signals_of_ranks(trainer: pl.Trainer) -> Iterator[None]:
    """Leave SIGTERM to Lightning if several processes train, so that all end together after a batch.

    A single process keeps its own handler and ends at once.
    """
    before = signal.getsignal(signal.SIGTERM)
    alone = trainer.world_size == 1 or threading.current_thread() is not threading.main_thread()
    if not alone:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        if not alone:
            signal.signal(signal.SIGTERM, before)


def leave_process_group() -> None:
    """Take ranks that Lightning started out of the parent's process group.

    A signal to the group would reach them twice, from the sender and from rank 0. The second one would arrive during
    the exchange about the first and hang both.
    """
    started_by_lightning = int(os.environ.get("LOCAL_RANK", 0)) > 0 and not (
        {"TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"} & os.environ.keys()
    )
    if started_by_lightning and os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
