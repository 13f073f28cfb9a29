"""The folder of one trained fold, and the places of the files in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.storage.file_names import FOLD_PREFIX
from segflow.storage.folder_lock import held, open_lock
from segflow.storage.json_files import TEMPORARY_PREFIX, read_json, read_json_as, write_json
from segflow.storage.links import refuse_link, within

CHECKPOINT_NAMES = ("final", "best", "last")
RAW = "raw"
"""Weights in the final checkpoint that a training with an average did not average."""
CHECKPOINTS = "checkpoints"
RECORD_FILE = "run.json"
LOCK_FILE = ".lock"
HYDRA_FOLDER = ".hydra"
TRAIN_FIRST = "Train first: segflow train"
START_FILES = (
    RECORD_FILE,
    ".hydra",
    "metrics.csv",
    "progress.png",
    "finished.json",
    "pruned.json",
    "nan_batch.json",
    "events.*",
    "hparams.yaml",
    "csv",
    ".writing-*",
)
"""Files that a training writes beside checkpoints, validation and log."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold's folder, ``outputs/<dataset>/<plans>/<configuration>/<run_name>/fold_<k>``.

    Nothing is made or read unless a method says so. A path says where a file belongs, not that it exists.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def fold(self) -> str:
        """The part of the name after ``fold_``: ``0`` … or ``all``."""
        return self.path.name.removeprefix(FOLD_PREFIX)

    @property
    def record_file(self) -> Path:
        """``run.json``: everything that prediction needs beside the weights."""
        return self.path / RECORD_FILE

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def validation(self) -> Path:
        """Folder of the label maps predicted for the fold's validation cases, and their ``summary.json``."""
        return self.path / "validation"

    @property
    def progress_png(self) -> Path:
        """The learning curves as a picture."""
        return self.path / "progress.png"

    @property
    def metrics_csv(self) -> Path:
        """The learning curves as a table."""
        return self.path / "metrics.csv"

    @property
    def log_file(self) -> Path:
        """The log of the training."""
        return self.path / "train.log"

    @property
    def stop_file(self) -> Path:
        """A file that a person creates to end the training after the current epoch."""
        return self.path / "STOP"

    @property
    def finished_file(self) -> Path:
        """The file that is written last, when the training has reached its end."""
        return self.path / "finished.json"

    @property
    def pruned_file(self) -> Path:
        """The file that says that a search ended the training early. It goes when the training is continued."""
        return self.path / "pruned.json"

    def checkpoint(self, name: str = "final") -> Path:
        """File of the checkpoint of this name; ``raw`` is a part of ``final``.

        Raises:
            SegflowError: There is no such kind of checkpoint.
        """
        if name not in (*CHECKPOINT_NAMES, RAW):
            raise SegflowError(f"unknown checkpoint '{name}'", expected=" | ".join((*CHECKPOINT_NAMES, RAW)))
        name = "final" if name == RAW else name
        return self.checkpoints / f"{name}.ckpt"

    def existing_checkpoint(self, name: str = "final") -> Path:
        """The checkpoint of this name.

        Raises:
            SegflowError: It has not been written. The error names those that have.
        """
        file = self.checkpoint(name)
        if not file.is_file():
            present = [other for other in CHECKPOINT_NAMES if self.checkpoint(other).is_file()]
            raise SegflowError(
                f"{self.path} has no checkpoint '{name}'",
                found=", ".join(present) or "no checkpoint",
                fix=f"Finish the training, or give checkpoint={present[0]}." if present else TRAIN_FIRST,
            )
        return file

    def has_weights(self) -> bool:
        """Whether there is a checkpoint. Without one the folder is not yet bound to any settings."""
        return any(self.checkpoint(name).is_file() for name in CHECKPOINT_NAMES)

    def clear_start(self) -> bool:
        """Delete the remains of a start that ended before its first checkpoint. Its log stays and is continued.

        Returns:
            Whether anything was deleted.

        Raises:
            SegflowError: A file cannot be deleted.
        """
        left = [path for pattern in START_FILES for path in self.path.glob(pattern)]
        try:
            for path in left:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise SegflowError(
                f"cannot delete what an earlier start left in {self.path}: {error.strerror}",
                fix="Check permissions, or give the run its own run_name.",
            ) from error
        return bool(left)

    def clear_unfinished(self) -> None:
        """Delete files that a killed start was still writing. Only a process that holds the lock may call this."""
        for folder in (self.path, self.path / CHECKPOINTS, self.validation):
            for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
                if path.is_file() or path.is_symlink():
                    with suppress(OSError):  # it only takes space
                        path.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while this one trains in the folder; see `segflow.storage.folder_lock`.

        Raises:
            SegflowError: Another process holds the lock, and is named. Or the folder cannot be written.
        """
        try:
            for name in (self.checkpoints.name, self.validation.name, HYDRA_FOLDER):
                within(self.path, name)
            self.path.mkdir(parents=True, exist_ok=True)
            opened = open_lock(refuse_link(self.path / LOCK_FILE))
        except OSError as error:
            raise SegflowError(
                f"cannot write into {self.path}: {error.strerror}",
                fix="Check space and permissions, or choose another place with paths.outputs=",
            ) from error
        with held(opened, f"trains in {self.path}"):
            yield

    def write_record(self, record: RunRecord) -> None:
        """Write ``run.json`` as a whole or not at all."""
        write_json(self.record_file, record.to_json())

    def note_machine(self, facts: Mapping[str, Any]) -> None:
        """Add the facts of the machine to ``run.json``, if there is one; see `RunRecord.machine`.

        The date of the first start stays, as ``begun``.
        """
        if self.record_file.is_file():
            before = read_json(self.record_file).get("machine") or {}
            begun = before.get("begun") or before.get("date") or facts.get("date")
            self.note("machine", {**facts, **({"begun": begun} if begun else {})})

    def note(self, key: str, facts: Mapping[str, Any]) -> None:
        """Add facts to ``run.json``, if there is one, under a key of `RunRecord`."""
        if self.record_file.is_file():
            write_json(self.record_file, {**read_json(self.record_file), key: dict(facts)})

    def read_record(self) -> RunRecord:
        """Read ``run.json``.

        Raises:
            SegflowError: The fold was never trained, or its record cannot be used.
        """
        return read_json_as(self.record_file, RunRecord.from_json, fix=TRAIN_FIRST)

    def is_finished(self) -> bool:
        """Whether the training reached its end and its weights are there."""
        return self.finished_file.is_file() and self.checkpoint("final").is_file()

    def mark_finished(self, facts: Mapping[str, Any] | None = None) -> None:
        """Record that the training reached its end. Call it after everything else has been written.

        Args:
            facts: Plain JSON to keep, such as epochs and seconds.
        """
        write_json(self.finished_file, dict(facts or {}))

    def mark_pruned(self, facts: Mapping[str, Any]) -> None:
        """Record that a search ended the training early. Its checkpoint stays, and it is not finished.

        Args:
            facts: Plain JSON to keep, such as epochs and seconds.
        """
        write_json(self.pruned_file, dict(facts))
