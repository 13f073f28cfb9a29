"""What ends a training early, and what keeps it repeatable."""

from __future__ import annotations

import logging
import math
import os
import signal
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from segflow.core.errors import SegflowError
from segflow.sampling.batch import PatchBatch
from segflow.storage.json_files import write_json
from segflow.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

GPU_CHECK_EVERY = 25
"""Steps between looks at the loss on a GPU: each look waits for the device."""

SIGTERM_EXIT = 143


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
    """Ends the training when the loss is not a number, and names the cases of that batch.

    Args:
        folder: The run's folder; ``nan_batch.json`` is written into it.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._recent: list[tuple[int, torch.Tensor, list[str]]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: PatchBatch, batch_idx: int
    ) -> None:
        self._recent.append((batch_idx, outputs["loss"].detach(), list(batch.case_ids)))
        every = 1 if trainer.strategy.root_device.type == "cpu" else GPU_CHECK_EVERY
        if len(self._recent) >= every or batch_idx + 1 >= trainer.num_training_batches:
            self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        losses = torch.stack([loss.float() for _, loss, _ in self._recent]).tolist()
        recent, self._recent = self._recent, []
        for (index, _, case_ids), loss in zip(recent, losses, strict=True):
            if math.isfinite(loss):
                continue
            file = self._folder.path / "nan_batch.json"
            position = {"epoch": trainer.current_epoch, "batch": index, "rank": trainer.global_rank}
            write_json(file, position | {"loss": str(loss), "cases": case_ids})
            last = self._folder.checkpoint("last")
            raise SegflowError(
                f"the loss became {loss} in epoch {trainer.current_epoch}, batch {index}",
                found=f"cases {', '.join(sorted(set(case_ids)))}",
                fix=f"Look at these cases (segflow doctor), lower optimizer.lr, or set trainer.precision=32-true. "
                f"{file} names the batch" + (f"; {last.name} is from before this epoch." if last.is_file() else "."),
            )


class StopFile(Callback):
    """Ends the training after the epoch in which somebody put a file STOP into the run's folder.

    The file is removed, so that the same command goes on from there.
    """

    def __init__(self, folder: RunFolder) -> None:
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
    """143 where Lightning's exception means that a signal ended the training (it would exit with 0)."""
    return SIGTERM_EXIT if isinstance(error, SIGTERMException) else None


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
