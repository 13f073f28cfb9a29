"""What ends a training early, and what keeps it repeatable."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from segflow.core.errors import SegflowError
from segflow.execution.interrupts import SIGTERM_EXIT, exit_code_of_interrupt
from segflow.sampling.batch import PatchBatch
from segflow.storage.folds import Fold
from segflow.storage.json_files import write_json

logger = logging.getLogger(__name__)

GPU_CHECK_EVERY = 25
"""Steps between looks at the loss on a GPU: each look waits for the device."""

MAX_NAMED = 8
"""Batches of an epoch that a warning counts up."""


class EpochSeed(Callback):
    """Seeds torch at the start of each epoch, so that dropout is a function of the epoch and not of the past.

    Args:
        seed: Of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        sequence = np.random.SeedSequence((self._seed, trainer.current_epoch, trainer.global_rank))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


class LossGuard(Callback):
    """Lets a step whose loss or gradient is no number change nothing, and ends the training after too many in a row.

    In 16-bit precision Lightning's gradient scaler skips such steps, as in nnU-Net. Elsewhere they are skipped here,
    since one of them would turn all weights into NaN.

    Args:
        folder: The run's folder; ``nan_batch.json`` is written into it at the end of the patience.
        limit: Such steps in a row that are borne.
    """

    def __init__(self, folder: Fold, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._recent: list[_Step] = []
        self._dropped = False
        self._in_a_row = 0
        self._skipped: list[_Step] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients and not torch.nn.utils.get_total_norm(gradients, math.inf).isfinite():
            optimizer.zero_grad(set_to_none=True)  # an optimizer leaves parameters without a gradient as they are
            self._dropped = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: PatchBatch, batch_idx: int
    ) -> None:
        self._recent.append(_Step(batch_idx, outputs["loss"].detach(), tuple(batch.case_ids), self._dropped))
        self._dropped = False
        every = 1 if trainer.strategy.root_device.type == "cpu" else GPU_CHECK_EVERY
        if len(self._recent) >= every:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer)
        skipped, self._skipped = self._skipped, []
        if skipped:
            logger.warning(
                "epoch %d: %d of %d steps were skipped, as the loss or its gradient was no number: batch %s; cases %s",
                trainer.current_epoch,
                len(skipped),
                trainer.num_training_batches,
                ", ".join(str(step.index) for step in skipped[:MAX_NAMED]) + (" …" if len(skipped) > MAX_NAMED else ""),
                ", ".join(sorted({case for step in skipped for case in step.case_ids})),
            )

    def _look(self, trainer: pl.Trainer) -> None:
        recent, self._recent = self._recent, []
        losses = torch.stack([step.loss.float() for step in recent]).tolist() if recent else []
        for step, loss in zip(recent, losses, strict=True):
            if math.isfinite(loss) and not step.dropped:
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            self._skipped.append(step)
            if self._in_a_row > self._limit:
                self._give_up(trainer, step, loss)

    def _give_up(self, trainer: pl.Trainer, step: _Step, loss: float) -> None:
        file = self._folder.path / "nan_batch.json"
        position = {"epoch": trainer.current_epoch, "batch": step.index, "rank": trainer.global_rank}
        write_json(file, position | {"loss": str(loss), "cases": list(step.case_ids)})
        last = self._folder.checkpoint("last")
        what = "the gradient became no number" if math.isfinite(loss) else f"the loss became {loss}"
        before = f", as in the {self._limit} steps before" if self._limit else ""
        raise SegflowError(
            f"{what} in epoch {trainer.current_epoch}, batch {step.index}{before}",
            found=f"cases {', '.join(sorted(set(step.case_ids)))}",
            fix=f"Look at these cases (segflow doctor), lower optimizer.lr, or set trainer.precision=32-true. "
            f"{file} names the batch" + (f"; {last.name} is from before this epoch." if last.is_file() else "."),
        )


@dataclass(frozen=True, slots=True)
class _Step:
    index: int
    loss: torch.Tensor
    case_ids: tuple[str, ...]
    dropped: bool


class StopFile(Callback):
    """Ends the training after the epoch in which somebody put a file STOP into the run's folder.

    The file is removed, so that the same command goes on from there.
    """

    def __init__(self, folder: Fold) -> None:
        self._folder = folder
        self.stopped = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = trainer.is_global_zero and self._folder.stop_file.exists()
        self.stopped = trainer.strategy.broadcast(found)
        if self.stopped:
            trainer.should_stop = True
            if trainer.is_global_zero:
                self._folder.stop_file.unlink(missing_ok=True)
                logger.info("STOP: the training ends after epoch %d", trainer.current_epoch)


class EndingSignals(Callback):
    """Treats a batch system's early warning (SIGUSR1, SIGUSR2 under SLURM) like SIGTERM.

    Lightning leaves the training after the batch under way; what it loses is the epoch under way.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "SLURM_JOB_ID" not in os.environ:
            return
        for warning in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(warning, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))


def exit_code_of(error: BaseException) -> int | None:
    """130 or 143 where the error means that a signal ended the training; Lightning would exit with 1 or 0."""
    return SIGTERM_EXIT if isinstance(error, SIGTERMException) else exit_code_of_interrupt(error)


@contextmanager
def signals_of_ranks(trainer: pl.Trainer) -> Iterator[None]:
    """Leave SIGTERM to Lightning where several processes train: they leave the training together, after a batch.

    By itself, a process ends at once, by the handler that it has.
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

    A signal to the group would reach them twice, from the sender and from rank 0, and the second one, in the middle
    of the exchange about the first, hangs both.
    """
    started_by_lightning = int(os.environ.get("LOCAL_RANK", 0)) > 0 and not (
        {"TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"} & os.environ.keys()
    )
    if started_by_lightning and os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
