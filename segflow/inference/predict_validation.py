"""The validation cases of a trained fold, whole, from their preprocessed arrays (recipe 9.8)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from segflow.core.preprocessed import PreprocessedCase, SpatialRecord
from segflow.core.progress import Progress, silent
from segflow.inference.load_network import Build
from segflow.inference.maps import Maps
from segflow.inference.pipeline import PredictReport, Steps, run_cases
from segflow.inference.predict_cases import PredictSettings
from segflow.inference.predictor import Predictor
from segflow.network.build import build_network
from segflow.preprocessing.restore import labels_on_grid, restore_labels
from segflow.storage.images import reader_by_name
from segflow.storage.preprocessed import PreprocessedStore, StoredCase
from segflow.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)

NEXT_STAGE_FOLDER = "predicted_next_stage"


def next_stage_folder(run: Path, configuration: str) -> Path:
    """Where a run keeps the label maps that a cascade takes as input; all folds of the run share it.

    Args:
        run: The run's folder, above its folds.
        configuration: The cascade's configuration.
    """
    return run / NEXT_STAGE_FOLDER / configuration


def predict_validation(
    folder: RunFolder,
    store: PreprocessedStore,
    settings: PredictSettings | None = None,
    *,
    previous_stage: PreprocessedStore | None = None,
    next_stages: Mapping[str, PreprocessedStore] | None = None,
    progress: Progress = silent,
    build: Build = build_network,
) -> PredictReport:
    """Predict the cases that a fold was not trained on, into its ``validation`` folder.

    A case is skipped where its label map is there and younger than the weights.

    Args:
        folder: The fold.
        store: Preprocessed cases of its configuration.
        settings: See `PredictSettings`; folds, configuration and part are not looked at.
        previous_stage: Label maps that the previous stage predicted, on the grid of ``store``; for a cascade.
        next_stages: Cascade's configuration → its preprocessed cases. Label maps on their grid are kept for it, see
            `next_stage_folder`; a case that is not preprocessed there is left out.
        progress: Told of each case that ended.
        build: See `Predictor.load`.

    Raises:
        SegflowError: The fold was not trained, or its weights do not fit.
    """
    settings = PredictSettings() if settings is None else settings
    predictor = Predictor.load(
        folder.path,
        checkpoint=settings.checkpoint,
        device=settings.device,
        settings=settings.window,
        with_previous_stage=False,
        build=build,
    )
    record = predictor.record
    reader = reader_by_name(record.plans.reader)
    maps = Maps(folder.validation, predictor.plan, predictor.labels, reader, settings)
    trained = folder.existing_checkpoint(settings.checkpoint).stat().st_mtime
    following = {
        name: (cases, PreprocessedStore(next_stage_folder(folder.path.parent, name)))
        for name, cases in (next_stages or {}).items()
    }

    def read(case_id: str) -> PreprocessedCase:
        stored = store.open(case_id)
        before = None if previous_stage is None else previous_stage.open(case_id).read_label()
        return PreprocessedCase(case_id, stored.read_image(), before, stored.spatial)

    def compute(case_id: str, case: PreprocessedCase) -> tuple[Tensor, SpatialRecord]:
        return predictor.logits(case), case.spatial

    def write(case_id: str, computed: tuple[Tensor, SpatialRecord]) -> None:
        logits, spatial = computed
        for name, (cases, target) in following.items():
            if case_id in cases.case_ids():
                plan = record.plans.configuration(name)
                target.write(_on_grid_of(cases.open(case_id), logits, spatial, predictor), plan.patch_size)
            else:
                logger.warning("case '%s' is not preprocessed for '%s' and is left out of its input", case_id, name)
        label = restore_labels(logits, spatial, predictor.plan, predictor.labels)
        maps.write(case_id, label, logits, (), spatial)
        reader.write_label(label, spatial.geometry, target_file(case_id))

    def target_file(case_id: str) -> Path:
        return folder.validation / f"{case_id}{record.dataset.file_ending}"

    def is_done(case_id: str) -> bool:
        files = [target_file(case_id), *maps.files(case_id)]
        files += [target.folder / f"{case_id}.json" for _, target in following.values()]
        return all(file.is_file() and file.stat().st_mtime > trained for file in files)

    maps.write_names()
    return run_cases(
        Steps("validate", read, compute, write, is_done), {name: name for name in record.val_cases}, settings, progress
    )


def _on_grid_of(stored: StoredCase, logits: Tensor, spatial: SpatialRecord, predictor: Predictor) -> PreprocessedCase:
    """Labels on the grid of another configuration's preprocessed case, ready to be stored.

    Both grids span the same crop of the image.
    """
    grid = stored.spatial
    label = labels_on_grid(
        logits, grid.shape_plan, spatial.spacing_plan, grid.spacing_plan, predictor.plan, predictor.labels
    )
    empty = np.empty((0, *grid.shape_plan), np.float32)
    return PreprocessedCase(stored.case_id, empty, label.astype(np.int16), grid)
