"""Checkpoints: tensors and plain values only, written to a temporary name and renamed (recipe 9.4, 17.3)."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from segflow.core.errors import SegflowError
from segflow.network.weights import read_tensors
from segflow.storage.json_files import written_whole
from segflow.storage.run_folder import RunFolder

MONITOR = "val/dice_ema"


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads with ``weights_only=True`` whatever the caller asks."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write; an earlier file stays as it was until the new one is complete.

        Raises:
            SegflowError: It cannot be written.
        """
        with written_whole(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read; nothing in the file is executed.

        Raises:
            SegflowError: It is missing, truncated, or holds more than tensors and plain values.
        """
        file = Path(path)
        try:
            with file.open("rb") as stream:  # not mapped into memory: the file is replaced while its tensors live on
                return read_tensors(stream, name=str(file))
        except OSError as error:
            raise SegflowError(f"cannot open the checkpoint {file}: {error.strerror}") from error
        except SegflowError as error:
            raise SegflowError(
                error.problem,
                found=error.found,
                fix=f"To go on from an earlier epoch, replace it by a copy of best.ckpt; to start anew, remove {file}.",
            ) from error


def link_checkpoint(source: Path, target: Path) -> None:
    """Give a checkpoint a second name; no second copy of its bytes where the file system has hard links.

    A checkpoint is never changed in place (a new one is renamed over it), so both names stay what they are.
    """
    with written_whole(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


class RunCheckpoints(Checkpoint):
    """``last.ckpt`` after every epoch, and ``best.ckpt`` whenever the moving average of the pseudo-Dice rises.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.best: float | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = float(trainer.callback_metrics.get(MONITOR, math.nan))
        improved = math.isfinite(value) and (self.best is None or value > self.best)
        if improved:
            self.best = value
        last = self._folder.checkpoint("last")
        trainer.save_checkpoint(last, weights_only=False)
        if improved and trainer.is_global_zero:
            link_checkpoint(last, self._folder.checkpoint("best"))

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
