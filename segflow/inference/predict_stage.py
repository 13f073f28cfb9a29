"""Prediction of many cases by one model into one folder. Finished cases are skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.preprocessed_case import PreprocessedSources
from segflow.core.system_errors import system_error
from segflow.execution.progress import Progress
from segflow.inference.case_pipeline import PredictReport, Steps, run_cases
from segflow.inference.case_prediction import CasePrediction
from segflow.inference.dicom_output import DicomOutput
from segflow.inference.find_cases import refuse_too_many
from segflow.inference.large_images import check_grid, fits_whole, image_bytes, is_large, open_case
from segflow.inference.maps import Maps
from segflow.inference.origins import StampedCase
from segflow.inference.predict_settings import PredictSettings
from segflow.inference.predictor import Predictor
from segflow.inference.streamed_files import CaseTargets, StreamedFiles
from segflow.storage.file_stamps import Origin
from segflow.storage.images import ImageIO, read_case
from segflow.storage.label_map_files import case_inputs
from segflow.storage.label_mapping import in_classes
from segflow.storage.predictions import DESCRIPTIONS, Predictions, Wanted
from segflow.storage.regular_files import stamped_files_stay_open

ARGUMENTS_FILE = "predict.json"
WAY = "predict"
DOCUMENTS = (*DESCRIPTIONS, ARGUMENTS_FILE)
VERSION = 1  # raise it when the same model, images and settings would give other label maps


@dataclass(frozen=True, slots=True)
class _Computed:
    """The result of a case, to be written."""

    read: StampedCase
    prediction: CasePrediction


@dataclass(frozen=True, slots=True)
class PredictStage:
    """One model and the folder of its label maps.

    Attributes:
        name: Name of the work, for progress.
        predictor: The model.
        output: The folder.
        settings: How to predict.
        decisive: Plain JSON of everything that decides the label maps beside the images.
        previous: Folder of the previous stage's label maps, for a cascade.
        family: Cases of all parts.
        own: See `predict_cases`.
        dicom: Writes DICOM-SEG beside the label maps.
    """

    name: str
    predictor: Predictor
    output: Path
    settings: PredictSettings
    decisive: dict[str, Any]
    previous: Path | None
    family: set[str]
    own: bool
    dicom: DicomOutput | None = None

    @property
    def reader(self) -> ImageIO:
        return in_classes(self.predictor.reader(), self.predictor.labels)

    @property
    def maps(self) -> Maps:
        return Maps(self.predictor.plan, self.predictor.labels, self.reader, self.settings)

    @property
    def predictions(self) -> Predictions:
        return Predictions(self.output, self.predictor.record.dataset.label_ending, own=self.own)

    def origin(self, files: CaseFiles) -> Origin:
        before = {} if self.previous is None else {"previous_stage": self._previous_file(self.previous, files.case_id)}
        return Origin(WAY, VERSION, self.decisive, case_inputs(replace(files, label=None), before))

    def prepare(self, cases: Sequence[CaseFiles]) -> set[str]:
        """Refuse files in the way, delete results that are out of date, and return the finished cases."""
        resume, documents = self.settings.resume, DOCUMENTS if self.name == "predict" else ()
        wanted = self._wanted(cases)
        return self.predictions.prepare(wanted, documents=documents, family=self.family, resume=resume)

    def finished(self, cases: Sequence[CaseFiles]) -> set[str]:
        """The cases whose results are there and up to date. Nothing is deleted."""
        return self.predictions.finished(self._wanted(cases))

    def clear_way(self, cases: Sequence[CaseFiles]) -> None:
        """In a folder of segflow's own, delete files that other processes would refuse to replace."""
        if self.own:
            self.predictions.clear_way(self._wanted(cases))

    def _wanted(self, cases: Sequence[CaseFiles]) -> dict[str, Wanted]:
        return {case.case_id: Wanted(self.origin(case), self._beside(case.case_id)) for case in cases}

    def _beside(self, case_id: str) -> tuple[Path, ...]:
        maps = self.maps.files(self.output, case_id)
        return maps if self.dicom is None else (*maps, self.dicom.file(self.output, case_id))

    def write_documents(self, arguments: dict[str, Any]) -> None:
        """Write the documents that say how the label maps were made."""
        record = self.predictor.record
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise system_error(error, f"cannot write into {self.output}") from error
        contents = (record.dataset.to_json(), record.plans.to_json(), arguments)
        for name, content in zip(DOCUMENTS, contents, strict=True):
            self.predictions.write_document(name, content, WAY)

    def run(self, cases: Sequence[CaseFiles], done: set[str], progress: Progress) -> PredictReport:
        """Predict the cases that are not done."""
        self.maps.write_names(self.output)
        steps = Steps(self.name, self._read, self._compute, self._write, done.__contains__)
        return run_cases(steps, {case.case_id: case for case in cases}, self.settings, progress)

    def _previous_file(self, folder: Path, case_id: str) -> Path:
        return folder / f"{case_id}{self.predictor.record.dataset.label_ending}"

    @stamped_files_stay_open()
    def _read(self, files: CaseFiles) -> StampedCase:
        refuse_too_many(files, self.predictor.record.dataset.channels)
        if self.dicom is not None:
            self.dicom.check(files.case_id)
        inputs = self.origin(files).stamp_inputs()
        before = None if self.previous is None else self._previous_file(self.previous, files.case_id)
        size = image_bytes(files.images, self.reader)
        if is_large(size) and (opened := self._open(files, before, fits_whole(size))) is not None:
            prepared, close = opened
            return StampedCase(prepared, inputs, close)
        case = read_case(files, self.reader)
        if before is None:
            return StampedCase(self.predictor.preprocess(case), inputs)
        label, _ = self.reader.read_label(before)
        try:
            check_grid(label.shape, case.image.shape[1:])
        except SegflowError as error:
            raise error.of_case(files.case_id) from error
        return StampedCase(self.predictor.preprocess(case, label), inputs)

    def _open(
        self, files: CaseFiles, before: Path | None, may_be_whole: bool
    ) -> tuple[PreprocessedSources, Callable[[], None]] | None:
        """A case that is prepared as it is read, and what closes its files. None if it must be read as a whole."""
        with ExitStack() as stack:
            try:
                case = open_case(files, self.reader, before, stack)
                if case is None:
                    return None
                prepared = self.predictor.preprocess_as_read(case, scratch=self.output)
            except SegflowError:
                if may_be_whole:  # what is wrong with the image is told then
                    return None
                raise
            return prepared, stack.pop_all().close

    def _compute(self, files: CaseFiles, read: StampedCase) -> _Computed:
        predictor, case, disagreement = self.predictor, read.preprocessed, self.settings.disagreement
        prediction = CasePrediction(
            case.spatial,
            predictor.plan,
            predictor.labels,
            lambda: StreamedFiles(self._streamed(files, read)),
            keep_logits=self.maps.need_logits,
        )
        try:
            prediction.take_all(predictor.slabs(case, of_networks=disagreement, scratch=self.output))
        finally:
            read.close()
        return _Computed(read, prediction)

    def _streamed(self, files: CaseFiles, read: StampedCase) -> CaseTargets:
        return CaseTargets(
            files.case_id,
            read.preprocessed.spatial,
            self.maps,
            self.reader,
            self.predictions.file(files.case_id).name,
            len(self.predictor.networks) if self.settings.disagreement else 0,
            lambda: self._written(files, read),
        )

    @contextmanager
    def _written(self, files: CaseFiles, read: StampedCase) -> Iterator[Path]:
        """A folder for the files of a case; see `Predictions.written`."""
        with self.predictions.written(files.case_id, self.origin(files), read.inputs) as place:
            yield place
            if self.dicom is not None:
                self.dicom.write(place, files.case_id, place / self.predictions.file(files.case_id).name)

    def _write(self, files: CaseFiles, computed: _Computed) -> None:
        prediction, spatial, predictions = computed.prediction, computed.read.preprocessed.spatial, self.predictions
        if prediction.streamed is not None:
            prediction.streamed.finish()
            return
        label = prediction.label_map()
        with self._written(files, computed.read) as place:
            votes = (vote() for vote in prediction.votes)
            self.maps.write(place, files.case_id, label, prediction.logits, votes, spatial)
            target = place / predictions.file(files.case_id).name
            self.reader.write_label(label, spatial.geometry, target)
