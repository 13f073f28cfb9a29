"""Prediction of a trained fold's whole validation cases from their preprocessed arrays (recipe 9.8)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from segflow.core.case_part import part_of
from segflow.core.errors import SegflowError
from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
from segflow.core.run_record import RunRecord
from segflow.execution.progress import Progress, silent
from segflow.inference.case_pipeline import PredictReport, Steps, run_cases
from segflow.inference.case_prediction import CasePrediction
from segflow.inference.label_builder import LabelBuilder
from segflow.inference.load_model import Build
from segflow.inference.maps import Maps
from segflow.inference.next_stage import NextStage
from segflow.inference.origins import WINDOW_SETTINGS, StampedCase, described, record_digest, window_choices
from segflow.inference.predict_settings import AUTO, PredictSettings
from segflow.inference.predictor import Predictor
from segflow.inference.sliding_window import LogitSlab
from segflow.inference.streamed_files import CaseTargets, StreamedFiles
from segflow.network.build import build_network
from segflow.storage.file_stamps import FileStamp, Origin, stamp_file
from segflow.storage.folds import Fold
from segflow.storage.images import ImageIO, reader_by_name
from segflow.storage.label_mapping import in_classes
from segflow.storage.predictions import Predictions, Wanted
from segflow.storage.preprocessed_store import PreprocessedStore

WAY = "validation"
VERSION = 1  # raise it when the same weights, arrays and settings would give other label maps
VALIDATE_AGAIN = "Run the same 'segflow train' command again; it predicts what is missing or out of date."


def predict_validation(
    folder: Fold,
    store: PreprocessedStore,
    settings: PredictSettings | None = None,
    *,
    previous_stage: PreprocessedStore | None = None,
    next_stages: Mapping[str, PreprocessedStore] | None = None,
    progress: Progress = silent,
    build: Build = build_network,
) -> PredictReport:
    """Predict the cases that a fold was not trained on, into its ``validation`` folder.

    A case is skipped if its label map exists and was made from the same arrays with the same weights and settings.

    Args:
        folder: The fold.
        store: Preprocessed cases of its configuration.
        settings: See `PredictSettings`. Folds, configuration and devices are not used. Of a part only its cases are
            predicted; other processes predict the others.
        previous_stage: Label maps of the previous stage on the grid of ``store``, for a cascade.
        next_stages: Cascade's configuration → its preprocessed cases. Label maps on their grids are written for it, see
            `NextStage`.
        progress: Called after each case.
        build: See `Predictor.load`.

    Raises:
        SegflowError: The fold was not trained, or its weights do not fit.
    """
    settings = PredictSettings() if settings is None else settings
    weights = stamp_file(folder.existing_checkpoint(settings.checkpoint))  # before the weights are read
    predictor = Predictor.load(
        folder.path,
        checkpoint=settings.checkpoint,
        device=settings.device,
        settings=settings.window,
        with_previous_stage=False,
        build=build,
    )
    record = predictor.record
    decisive = _decisive(record, settings, weights, build)
    following = [NextStage.of(folder, record, name, grids, weights) for name, grids in (next_stages or {}).items()]
    return _Validation(folder, store, settings, predictor, decisive, previous_stage, tuple(following)).run(progress)


def is_validated(
    folder: Fold,
    store: PreprocessedStore,
    settings: PredictSettings,
    *,
    previous_stage: PreprocessedStore | None = None,
    next_stages: Mapping[str, PreprocessedStore] | None = None,
    build: Build = build_network,
) -> bool:
    """Whether `predict_validation` would find nothing to do. The arguments are the same; no weights are loaded."""
    record = folder.read_record()
    weights = stamp_file(folder.existing_checkpoint(settings.checkpoint))
    decisive = _decisive(record, settings, weights, build)
    following = [NextStage.of(folder, record, name, grids, weights) for name, grids in (next_stages or {}).items()]
    reader = reader_by_name(record.plans.reader)
    maps = Maps(record.plan, record.dataset.labels, reader, settings)
    origins = {name: _origin(name, decisive, store, previous_stage) for name in record.val_cases}
    wanted = {name: Wanted(origin, maps.files(folder.validation, name)) for name, origin in origins.items()}
    done = Predictions(folder.validation, record.dataset.label_ending).finished(wanted)
    return done == set(wanted) and all(
        stage.is_done(name, origin) for stage in following for name, origin in origins.items()
    )


def _decisive(record: RunRecord, settings: PredictSettings, weights: FileStamp, build: Build) -> dict[str, Any]:
    """Plain JSON of everything that decides the label maps beside the arrays."""
    return {
        "weights": weights["digest"],
        "checkpoint": settings.checkpoint,
        **window_choices(settings),
        "plans": record_digest(record),
        "network": described(build),
    }


def _origin(
    case_id: str, decisive: dict[str, Any], store: PreprocessedStore, previous_stage: PreprocessedStore | None
) -> Origin:
    inputs = {"arrays": store.properties_file(case_id)}
    if previous_stage is not None:
        inputs["previous_stage"] = previous_stage.properties_file(case_id)
    return Origin(WAY, VERSION, decisive, inputs)


@dataclass(frozen=True, slots=True)
class _Validation:
    """Predicts a fold's cases from their arrays.

    Attributes:
        folder, store, settings, previous_stage: See `predict_validation`.
        predictor: The fold's network.
        decisive: Plain JSON of everything that decides the label maps beside the arrays.
        following: The cascades that take the label maps as input.
    """

    folder: Fold
    store: PreprocessedStore
    settings: PredictSettings
    predictor: Predictor
    decisive: dict[str, Any]
    previous_stage: PreprocessedStore | None
    following: tuple[NextStage, ...]

    @property
    def reader(self) -> ImageIO:
        return in_classes(reader_by_name(self.predictor.record.plans.reader), self.predictor.labels)

    @property
    def maps(self) -> Maps:
        return Maps(self.predictor.plan, self.predictor.labels, self.reader, self.settings)

    @property
    def predictions(self) -> Predictions:
        return Predictions(self.folder.validation, self.predictor.record.dataset.label_ending, own=True)

    def run(self, progress: Progress) -> PredictReport:
        """Predict the cases that are not done."""
        names, place = self.predictor.record.val_cases, self.folder.validation
        mine = part_of(names, self.settings.part)
        wanted = {name: Wanted(self.origin(name), self.maps.files(place, name)) for name in mine}
        done = self.predictions.prepare(wanted, what="validation maps", family=names, resume=self.settings.resume)

        def is_done(name: str) -> bool:
            return name in done and all(stage.is_done(name, self.origin(name)) for stage in self.following)

        self.maps.write_names(place)
        steps = Steps("validate", self._read, self._compute, self._write, is_done)
        return run_cases(steps, {name: name for name in mine}, self.settings, progress)

    def origin(self, case_id: str) -> Origin:
        return _origin(case_id, self.decisive, self.store, self.previous_stage)

    def _read(self, case_id: str) -> StampedCase:
        with closing(self.store.open(case_id)) as stored:  # each case is read once
            inputs = self.origin(case_id).stamp_inputs()
            case = PreprocessedCase(
                case_id, stored.read_image(), self._before(case_id), stored.spatial, missing=stored.missing
            )
        return StampedCase(case, inputs)

    def _before(self, case_id: str) -> np.ndarray | None:
        """The label map of the previous stage, on the grid of the arrays; None without a cascade."""
        if self.previous_stage is None:
            return None
        with closing(self.previous_stage.open(case_id)) as stored:
            return stored.read_label()

    def _compute(self, case_id: str, case: StampedCase) -> _Computed:
        predictor, spatial = self.predictor, case.preprocessed.spatial
        built = [(stage, stage.builder(case_id, spatial, predictor)) for stage in self.following]
        following = [(stage, label) for stage, label in built if label is not None]
        streamed = CaseTargets(
            case_id,
            spatial,
            self.maps,
            self.reader,
            self.predictions.file(case_id).name,
            0,
            lambda: self.predictions.written(case_id, self.origin(case_id), case.inputs),
            tuple(label for _, label in following),
        )
        keep_logits = self.maps.need_logits or bool(following)
        what = (spatial, predictor.plan, predictor.labels)
        prediction = CasePrediction(*what, lambda: StreamedFiles(streamed), keep_logits=keep_logits)
        prediction.take_all(predictor.slabs(case.preprocessed, scratch=self.folder.path))
        return _Computed(prediction, spatial, case.inputs, following)

    def _write(self, case_id: str, computed: _Computed) -> None:
        prediction, spatial, origin = computed.prediction, computed.spatial, self.origin(case_id)
        for stage, built in computed.following:
            if prediction.streamed is None and prediction.logits is not None:
                built.take(LogitSlab(0, prediction.logits))
            stage.write(case_id, origin, computed.inputs, built.label)
        if prediction.streamed is not None:
            prediction.streamed.finish()
            return
        label = prediction.label_map()
        with self.predictions.written(case_id, origin, computed.inputs) as place:
            self.maps.write(place, case_id, label, prediction.logits, (), spatial)
            self.reader.write_label(label, spatial.geometry, place / self.predictions.file(case_id).name)


@dataclass(frozen=True, slots=True)
class _Computed:
    """The result of a case, to be written, without its image to save memory."""

    prediction: CasePrediction
    spatial: SpatialRecord
    inputs: dict[str, FileStamp]
    following: list[tuple[NextStage, LabelBuilder]]


def validated_with(folder: Fold, record: RunRecord) -> dict[str, Any] | None:
    """The settings of inference that predicted a fold's validation cases.

    Args:
        folder: The fold.
        record: Its record.

    Returns:
        Name → value of every setting that changes label maps; None if there are no stamps, as in runs of earlier
        versions or of other tools.

    Raises:
        SegflowError: Label maps were changed since, come from other weights than the present ones, or were made with
            different settings.
    """
    predictions = Predictions(folder.validation, record.dataset.label_ending)
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
    if found is None:
        return None
    return {name: found.get(name, AUTO if name == "precision" else None) for name in ("checkpoint", *WINDOW_SETTINGS)}


def _is_of_weights(folder: Fold, settings: Mapping[str, Any]) -> bool:
    file = folder.checkpoint(str(settings.get("checkpoint")))
    return file.is_file() and stamp_file(file)["digest"] == settings.get("weights")


def _not_those(folder: Fold, case_id: str, problem: str) -> SegflowError:
    return SegflowError(f"{folder.validation}: {problem}", case=case_id, fix=VALIDATE_AGAIN)
