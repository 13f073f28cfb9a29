"""Opening of any trained model by its path: its kind, its folds, and their weights and records."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from torch import Tensor

from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.models.bundle_file import bundle_folds, is_bundle, read_bundle
from segflow.models.nnunet_checkpoint import read_nnunet_checkpoint, read_nnunet_weights
from segflow.models.nnunet_model import is_nnunet_model, nnunet_folds, previous_model, read_nnunet_model
from segflow.models.own_runs import previous_run, read_checkpoint, read_run
from segflow.models.trained_fold import Folds, TrainedFold, choose_folds
from segflow.storage.find_folds import find_folds, named_checkpoint, no_run
from segflow.storage.folds import RECORD_FILE, Fold

logger = logging.getLogger(__name__)

MODELS = "a run's folder, a bundle, or a folder or zip of nnU-Net v2"
CHECKPOINT_ENDINGS = (".ckpt", ".pt")
NNUNET_ENDING = ".pth"


class ModelKind(StrEnum):
    """The kinds of trained models."""

    FOLD = "fold"
    RUN = "run"
    CHECKPOINT = "checkpoint"
    BUNDLE = "bundle"
    NNUNET_MODEL = "model of nnU-Net v2"
    NNUNET_CHECKPOINT = "checkpoint of nnU-Net v2"


def open_model(path: Path, *, checkpoint: str = "final", configuration: str | None = None) -> OpenedModel:
    """Open a trained model of any kind. Its files are recognised here, and read when they are needed.

    Args:
        path: A fold, a checkpoint in it, the run's folder above it, a bundle, or a model of nnU-Net v2: its folder, a
            folder above it or one of its folds, its zip, or one of its checkpoints.
        checkpoint: ``final``, ``best`` or ``last``; ``raw`` is ``final`` before ``training.average``.
            A bundle and a checkpoint file have only one.
        configuration: Configuration to take if the path holds several.

    Raises:
        SegflowError: There is nothing at the path, or a file that is not a model.
    """
    if path.is_file() and path.suffix in CHECKPOINT_ENDINGS:
        return _Checkpoint(ModelKind.CHECKPOINT, path)
    path, checkpoint = named_checkpoint(path, checkpoint)
    if not path.exists():
        raise no_run(path, f"there is no model {path}")
    if path.is_file() and path.suffix == NNUNET_ENDING:
        return _NnunetCheckpoint(ModelKind.NNUNET_CHECKPOINT, path)
    if is_bundle(path):
        return _Bundle(ModelKind.BUNDLE, path, checkpoint, configuration)
    if is_nnunet_model(path):
        return _NnunetModel(ModelKind.NNUNET_MODEL, path, checkpoint, configuration)
    if path.is_file():
        raise SegflowError(f"{path} is not a model, or is cut off", expected=MODELS)
    kind = ModelKind.FOLD if (path / RECORD_FILE).is_file() else ModelKind.RUN
    return _Run(kind, path, checkpoint, configuration)


@dataclass(frozen=True, slots=True)
class OpenedModel(ABC):
    """A trained model; see `open_model`.

    Attributes:
        kind: Kind of the model. A folder that is not recognised counts as a run until it is read.
        path: Path of the model.
        checkpoint: Checkpoint to read from each fold.
        configuration: Configuration to take if there are several.
    """

    kind: ModelKind
    path: Path
    checkpoint: str = "final"
    configuration: str | None = None

    @abstractmethod
    def folds(self) -> list[str]:
        """Names of its folds: ``0``, ``1``, …, or ``all``.

        Raises:
            SegflowError: It cannot be read, or has none.
        """

    @abstractmethod
    def read(self, folds: Folds = "all") -> list[TrainedFold]:
        """Weights and records of folds.

        Args:
            folds: ``all``, or names; see `choose_folds`.

        Raises:
            SegflowError: A fold does not exist, or cannot be read.
        """

    @abstractmethod
    def previous_stage(self, record: RunRecord) -> tuple[Path, str]:
        """Path and configuration of a cascade's previous stage.

        Args:
            record: Record of the cascade.

        Raises:
            SegflowError: It cannot be found. The error says how to name it.
        """

    def first_weights(self) -> Mapping[str, Tensor]:
        """Weights of the first fold, as initial weights. If there are several folds, the choice is logged.

        Raises:
            SegflowError: It cannot be read.
        """
        names = self.folds()
        if len(names) > 1:
            logger.info("weights: of %d folds in %s, those of fold %s", len(names), self.path, names[0])
        return self.read(names[0])[0].weights


class _Run(OpenedModel):
    """A run of segflow: the folder of a run or of a fold."""

    def folds(self) -> list[str]:
        return choose_folds([fold.fold for fold in find_folds(self.path)], "all", str(self.path))

    def read(self, folds: Folds = "all") -> list[TrainedFold]:
        return read_run(self.path, folds, self.checkpoint)

    def previous_stage(self, record: RunRecord) -> tuple[Path, str]:
        return previous_run(self.path, record), str(record.plan.previous_stage)


class _Checkpoint(OpenedModel):
    """A checkpoint file of segflow. It holds only weights; the record lies in its fold's folder."""

    def folds(self) -> list[str]:
        return [self._home().fold]

    def read(self, folds: Folds = "all") -> list[TrainedFold]:
        return read_run(self._home().path, folds, self.path.stem)

    def first_weights(self) -> Mapping[str, Tensor]:
        return read_checkpoint(self.path)

    def previous_stage(self, record: RunRecord) -> tuple[Path, str]:
        return previous_run(self._home().path, record), str(record.plan.previous_stage)

    def _home(self) -> Fold:
        place, _ = named_checkpoint(self.path)
        if place == self.path:
            raise SegflowError(
                f"{self.path} is not a model: it lies in no fold with a {RECORD_FILE}",
                expected=f"{Fold(Path('fold_0')).checkpoint()}, or {MODELS}",
            )
        return Fold(place)


class _Bundle(OpenedModel):
    """A bundle. That of a cascade holds the previous stage too."""

    def folds(self) -> list[str]:
        return bundle_folds(self.path, self.configuration)

    def read(self, folds: Folds = "all") -> list[TrainedFold]:
        return read_bundle(self.path, folds, self.configuration)

    def previous_stage(self, record: RunRecord) -> tuple[Path, str]:
        return self.path, str(record.plan.previous_stage)


class _NnunetModel(OpenedModel):
    """A folder or zip of nnU-Net v2."""

    def folds(self) -> list[str]:
        return nnunet_folds(self.path, self.checkpoint, self.configuration)

    def read(self, folds: Folds = "all") -> list[TrainedFold]:
        return read_nnunet_model(self.path, folds, self.checkpoint, self.configuration)

    def previous_stage(self, record: RunRecord) -> tuple[Path, str]:
        previous = str(record.plan.previous_stage)
        return previous_model(self.path, previous), previous


class _NnunetCheckpoint(OpenedModel):
    """A checkpoint file of nnU-Net v2, which holds its plans and dataset.json."""

    def folds(self) -> list[str]:
        return [str(fold.record.fold) for fold in self.read()]

    def read(self, folds: Folds = "all") -> list[TrainedFold]:
        fold = read_nnunet_checkpoint(self.path, str(self.path))
        choose_folds([str(fold.record.fold)], folds, str(self.path))
        return [fold]

    def first_weights(self) -> Mapping[str, Tensor]:
        return read_nnunet_weights(self.path)

    def previous_stage(self, record: RunRecord) -> tuple[Path, str]:
        previous = str(record.plan.previous_stage)
        place = previous_model(self.path.parent, previous)
        if place == self.path.parent:
            raise SegflowError(
                f"configuration '{record.configuration}' needs the model of '{previous}'",
                found=f"no plans.json above {self.path}",
                fix="Say where it is: previous_stage=MODEL_FOLDER",
            )
        return place, previous
