"""The input of a fold's training."""

from __future__ import annotations

from dataclasses import dataclass

import pytorch_lightning as pl

from segflow.core.run_record import RunRecord
from segflow.execution.machine import processor_count
from segflow.execution.progress import Progress
from segflow.storage.folds import Fold
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.training.protocols import AugmentationLike, TrainingParts
from segflow.training.training_settings import TrainingSettings

CORES_FOR_WORKERS = 6
"""With fewer cores per GPU, augmentation runs on the GPU to keep it busy."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One fold to train.

    Attributes:
        folder: The fold's folder.
        record: Record of the fold, the content of ``run.json``.
        store: Preprocessed cases of the configuration.
        parts: Network, loss, optimizer, ….
        settings: Settings beside the parts.
        augmentation: Augmentation of the configuration's patches.
        previous_stage: Label maps of the previous stage on the same grid, for a cascade.
        progress: Called after every epoch.
    """

    folder: Fold
    record: RunRecord
    store: PreprocessedStore
    parts: TrainingParts
    settings: TrainingSettings
    augmentation: AugmentationLike
    previous_stage: PreprocessedStore | None
    progress: Progress

    def augments_on_device(self, trainer: pl.Trainer) -> bool:
        """Whether training batches are augmented on the network's device, not in the data workers."""
        choice = self.settings.augmentation_device
        if choice != "auto":
            return choice == "device"
        cores = processor_count() // max(1, trainer.num_devices)
        return trainer.strategy.root_device.type == "cuda" and cores < CORES_FOR_WORKERS
