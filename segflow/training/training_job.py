"""The input of a fold's training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segflow.core.run_record import RunRecord
from segflow.execution.progress import Progress
from segflow.storage.folds import Fold
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.scratch import copy_to_scratch
from segflow.training.protocols import AugmentationLike, TrainingParts
from segflow.training.training_settings import TrainingSettings

PREPROCESS = "segflow preprocess"


@dataclass(frozen=True, slots=True)
class FoldArrays:
    """The arrays that a fold is trained on.

    Attributes:
        store: Preprocessed cases of the configuration.
        previous_stage: Label maps of the previous stage on the same grid, for a cascade.
        made_by: The command that makes them, for messages.
        scratch: Folder on a disk of this machine to which the fold's cases are copied; None reads them where they are.
    """

    store: PreprocessedStore
    previous_stage: PreprocessedStore | None = None
    made_by: str = PREPROCESS
    scratch: Path | None = None

    def near(self, case_ids: Sequence[str]) -> FoldArrays:
        """The same arrays on this machine's own disk, if ``scratch`` names one."""
        if self.scratch is None:
            return self
        store = copy_to_scratch(self.store, case_ids, self.scratch)
        previous = self.previous_stage and copy_to_scratch(self.previous_stage, case_ids, self.scratch)
        return replace(self, store=store, previous_stage=previous)


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One fold to train.

    Attributes:
        folder: The fold's folder.
        record: Record of the fold, the content of ``run.json``.
        arrays: What it is trained on.
        parts: Network, loss, optimizer, ….
        settings: Settings beside the parts.
        augmentation: Augmentation of the configuration's patches.
        progress: Called several times in an epoch.
    """

    folder: Fold
    record: RunRecord
    arrays: FoldArrays
    parts: TrainingParts
    settings: TrainingSettings
    augmentation: AugmentationLike
    progress: Progress
