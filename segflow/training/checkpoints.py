"""Checkpoints: tensors and plain values only, written to a temporary name and renamed (recipe 9.4, 17.3)."""

from __future__ import annotations

import copy
import math
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch.serialization import get_unsafe_globals_in_checkpoint

from segflow.core.errors import SegflowError
from segflow.models.own_runs import RAW_WEIGHTS
from segflow.models.tensor_files import read_tensors
from segflow.storage.folds import Fold
from segflow.storage.json_files import written_whole

MONITOR = "val/dice_ema"

_AT_REST = ("state_dict", RAW_WEIGHTS, "optimizer_states")
"""Parts of a checkpoint whose tensors change only in steps of the optimizer."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint as a whole or not at all, and always reads with ``weights_only=True``.

    Writing continues during the next training step. Weights and the optimizer's state are not copied for it: they do
    not change until the optimizer's next step, before which `wait` must be called.
    """

    def __init__(self) -> None:
        super().__init__()
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Begin to write. An existing file stays as it was until the new one is complete.

        Args:
            checkpoint: The content. Everything but weights and the optimizer's state may change meanwhile.
            path: Path of the file.
            storage_options: A second name for the complete file, or None.
        """
        self.wait()
        still = {key: value if key in _AT_REST else copy.deepcopy(value) for key, value in checkpoint.items()}
        self._writing = self._writer.submit(_write, still, Path(path), storage_options)

    def wait(self) -> None:
        """Return when the last checkpoint is complete.

        Raises:
            SegflowError: It could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def teardown(self) -> None:
        """Called by Lightning at every end of a training."""
        self.wait()

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint. No code in the file is run.

        Raises:
            SegflowError: It is missing, truncated, or holds more than tensors and plain values.
        """
        file = Path(path)
        try:
            with file.open("rb") as stream:  # not memory-mapped: the file is replaced while in use
                return read_tensors(stream, name=str(file))
        except OSError as error:
            raise SegflowError(f"cannot open the checkpoint {file}: {error.strerror}") from error
        except SegflowError as error:
            raise error.changed(
                fix=f"To go on from an earlier epoch, replace it by a copy of best.ckpt; to start anew, remove {file}."
            ) from error


def link_checkpoint(source: Path, target: Path) -> None:
    """Give a checkpoint a second name, without copying it if the file system has hard links.

    A checkpoint is never changed in place (a new one is renamed over it), so the two names do not affect each other.
    """
    with written_whole(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _write(checkpoint: dict[str, Any], path: Path, second_name: Path | None) -> None:
    with written_whole(path, needed=_tensor_bytes(checkpoint)) as temporary:
        torch.save(checkpoint, temporary)
        foreign = get_unsafe_globals_in_checkpoint(temporary)
        if foreign:
            raise SegflowError(
                "this training cannot be saved: a checkpoint holds tensors and plain values only",
                found=", ".join(sorted(foreign)),
                fix="It is in the state of an optimizer, schedule or callback of your own: keep a plain value there.",
            )
    if second_name is not None:
        link_checkpoint(path, second_name)


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return sum(_tensor_bytes(part) for part in parts)


class RunCheckpoints(Checkpoint):
    """``last.ckpt`` after every epoch, and ``best.ckpt`` whenever the moving average of the pseudo-Dice rises.

    Args:
        folder: The fold's folder.
        files: Writes them; it must be the trainer's.
    """

    def __init__(self, folder: Fold, files: WholeCheckpointIO) -> None:
        self._folder = folder
        self._files = files
        self.best: float | None = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = float(trainer.callback_metrics.get(MONITOR, math.nan))
        improved = math.isfinite(value) and (self.best is None or value > self.best)
        if improved:
            self.best = value
        best = self._folder.checkpoint("best") if improved else None
        trainer.save_checkpoint(self._folder.checkpoint("last"), weights_only=False, storage_options=best)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self._files.wait()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._files.wait()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
