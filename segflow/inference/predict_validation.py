"""The validation cases of a trained fold, whole, from their preprocessed arrays (recipe 9.8)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from segflow.core.errors import SegflowError
from segflow.core.preprocessed import PreprocessedCase, SpatialRecord
from segflow.core.progress import Progress, silent
from segflow.core.run import RunRecord
from segflow.inference.load_network import Build
from segflow.inference.maps import Maps
from segflow.inference.next_stage import NextStage
from segflow.inference.origins import WINDOW_SETTINGS, described, record_digest
from segflow.inference.pipeline import PredictReport, Steps, run_cases
from segflow.inference.predict_cases import PredictSettings
from segflow.inference.predictor import Predictor
from segflow.network.build import build_network
from segflow.preprocessing.restore import restore_labels
from segflow.storage.images import reader_by_name
from segflow.storage.predictions import Predictions, Wanted
from segflow.storage.preprocessed import PreprocessedStore
from segflow.storage.run_folder import RunFolder
from segflow.storage.stamps import FileStamp, Origin, stamp_file

logger = logging.getLogger(__name__)

WAY = "validation"
VERSION = 1  # raise it when the same weights, arrays and settings begin to give other label maps
VALIDATE_AGAIN = "Run the same 'segflow train' command again; it predicts what is missing or out of date."


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

    A case is skipped where its label map is there and was made from the same arrays, by the same weights and settings.

    Args:
        folder: The fold.
        store: Preprocessed cases of its configuration.
        settings: See `PredictSettings`; folds, configuration and part are not looked at.
        previous_stage: Label maps that the previous stage predicted, on the grid of ``store``; for a cascade.
        next_stages: Cascade's configuration → its preprocessed cases. Label maps on their grid are handed on to it, see
            `NextStage`.
        progress: Told of each case that ended.
        build: See `Predictor.load`.

    Raises:
        SegflowError: The fold was not trained, or its weights do not fit.
    """
    settings = PredictSettings() if settings is None else settings
    weights = stamp_file(folder.existing_checkpoint(settings.checkpoint))  # before they are read
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
    maps = Maps(predictor.plan, predictor.labels, reader, settings)
    predictions = Predictions(folder.validation, record.dataset.file_ending)
    decisive = {
        "weights": weights["digest"],
        "checkpoint": settings.checkpoint,
        **{name: getattr(settings, name) for name in WINDOW_SETTINGS},
        "plans": record_digest(record),
        "network": described(build),
    }
    following = [NextStage.of(folder, record, name, grids, weights) for name, grids in (next_stages or {}).items()]

    def origin(case_id: str) -> Origin:
        inputs = {"arrays": store.properties_file(case_id)}
        if previous_stage is not None:
            inputs["previous_stage"] = previous_stage.properties_file(case_id)
        return Origin(WAY, VERSION, decisive, inputs)

    def read(case_id: str) -> _Read:
        stored = store.open(case_id)
        inputs = origin(case_id).stamp_inputs()
        before = None if previous_stage is None else previous_stage.open(case_id).read_label()
        return _Read(PreprocessedCase(case_id, stored.read_image(), before, stored.spatial), inputs)

    def compute(case_id: str, case: _Read) -> _Computed:
        return _Computed(predictor.logits(case.preprocessed), case.preprocessed.spatial, case.inputs)

    def write(case_id: str, computed: _Computed) -> None:
        logits, spatial = computed.logits, computed.spatial
        for stage in following:
            stage.write(case_id, origin(case_id), computed.inputs, logits, spatial, predictor)
        label = restore_labels(logits, spatial, predictor.plan, predictor.labels)
        with predictions.written(case_id, origin(case_id), computed.inputs) as place:
            maps.write(place, case_id, label, logits, (), spatial)
            reader.write_label(label, spatial.geometry, place / predictions.file(case_id).name)

    wanted = {name: Wanted(origin(name), maps.files(folder.validation, name)) for name in record.val_cases}
    done = predictions.prepare(wanted, what="validation maps", resume=settings.resume, own=True)

    def is_done(case_id: str) -> bool:
        return case_id in done and all(stage.is_done(case_id, origin(case_id)) for stage in following)

    maps.write_names(folder.validation)
    return run_cases(
        Steps("validate", read, compute, write, is_done), {name: name for name in record.val_cases}, settings, progress
    )


def validated_with(folder: RunFolder, record: RunRecord) -> dict[str, Any] | None:
    """The settings of the inference by which a fold's validation cases were predicted.

    Args:
        folder: The fold.
        record: What it says of itself.

    Returns:
        Name → value of every setting that changes label maps; None where there are no stamps, as in runs of an earlier
        segflow or of another tool.

    Raises:
        SegflowError: Label maps were changed since, are of other weights than those that are there, or differ in how
            they were made.
    """
    predictions = Predictions(folder.validation, record.dataset.file_ending)
    found: dict[str, Any] | None = None
    for case_id in record.val_cases:
        stamp = predictions.stamp_of(case_id)
        if stamp is None:
            continue
        if not predictions.is_intact(case_id):
            raise _not_those(folder, case_id, "its label map was changed or exchanged since it was predicted")
        settings = stamp["settings"]
        if found is None:
            found = settings
            if not _is_of_weights(folder, settings):
                raise _not_those(folder, case_id, "its label map was predicted with other weights than are there now")
        if settings != found:
            raise _not_those(folder, case_id, "its label map was made in another way than those of other cases")
    return None if found is None else {name: found.get(name) for name in ("checkpoint", *WINDOW_SETTINGS)}


def _is_of_weights(folder: RunFolder, settings: Mapping[str, Any]) -> bool:
    file = folder.checkpoint(str(settings.get("checkpoint")))
    return file.is_file() and stamp_file(file)["digest"] == settings.get("weights")


def _not_those(folder: RunFolder, case_id: str, problem: str) -> SegflowError:
    return SegflowError(f"{folder.validation}: {problem}", case=case_id, fix=VALIDATE_AGAIN)


@dataclass(frozen=True, slots=True)
class _Read:
    """What one case waits with to be computed; stamps of its files from before they were read."""

    preprocessed: PreprocessedCase
    inputs: dict[str, FileStamp]


@dataclass(frozen=True, slots=True)
class _Computed:
    """What one case waits with to be written."""

    logits: Tensor
    spatial: SpatialRecord
    inputs: dict[str, FileStamp]
