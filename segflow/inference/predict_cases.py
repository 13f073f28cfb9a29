"""Images in, label maps out: many cases, read, predicted and written at the same time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.preprocessed import PreprocessedCase
from segflow.core.progress import Progress, silent
from segflow.core.system_errors import system_error
from segflow.inference.find_cases import Input, find_cases, part_of, refuse_too_many
from segflow.inference.load_network import Build
from segflow.inference.maps import Maps
from segflow.inference.origins import WINDOW_SETTINGS, described, record_digest, weights_digest
from segflow.inference.pipeline import PredictReport, Steps, run_cases
from segflow.inference.predictor import Predictor
from segflow.inference.sliding_window import SlidingWindowSettings, mean_logits
from segflow.network.build import build_network
from segflow.storage.images import ImageIO, read_case, readable_endings, reader_by_name
from segflow.storage.label_map_files import case_inputs
from segflow.storage.links import within
from segflow.storage.predictions import Predictions, Wanted
from segflow.storage.run_folder import named_checkpoint
from segflow.storage.stamps import FileStamp, Origin

logger = logging.getLogger(__name__)

ARGUMENTS_FILE = "predict.json"
PREVIOUS_STAGE_FOLDER = "previous_stage"
WAY = "predict"
DOCUMENTS = ("dataset.json", "plans.json", ARGUMENTS_FILE)
VERSION = 1  # raise it when the same model, images and settings begin to give other label maps


@dataclass(kw_only=True, slots=True)
class PredictSettings(SlidingWindowSettings):
    """How a model is chosen and applied to a folder.

    Attributes:
        folds: ``all``, one fold, or a list of folds, whose logits are averaged.
        checkpoint: ``final``, ``best`` or ``last``.
        configuration: Which model, where the path holds several; null where it holds one.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
        previous_stage: Model of the stage that a cascade builds on; null: the one beside it.
        previous_stage_predictions: Folder of that stage's label maps, in place of predicting them.
        probabilities: Also write every label's or region's probability.
        entropy: Also write how undecided the probabilities are, 0 to 1.
        disagreement: Also write the share of folds whose own label is another.
        resume: Skip cases that are done: their outputs are there, and made from the same images by the same model and
            settings.
        part: ``k/n``: predict only every n-th case, beginning with the k-th.
        readers, writers: Threads that read and preprocess, and that restore and write.
    """

    folds: Any = "all"
    checkpoint: str = "final"
    configuration: str | None = None
    device: str = "auto"
    previous_stage: str | None = None
    previous_stage_predictions: str | None = None
    probabilities: bool = False
    entropy: bool = False
    disagreement: bool = False
    resume: bool = True
    part: str = "0/1"
    readers: int = 1
    writers: int = 1

    def __post_init__(self) -> None:
        SlidingWindowSettings.__post_init__(self)
        if isinstance(self.folds, (list, tuple)):
            self.folds = [str(fold) for fold in self.folds]
        else:
            self.folds = "all" if self.folds == "all" else [str(self.folds)]
        if self.folds == ["all"]:
            self.folds = "all"
        if self.readers < 1 or self.writers < 1:
            raise SegflowError("readers and writers must be at least 1", found=f"{self.readers}, {self.writers}")
        part_of((), self.part)

    @property
    def window(self) -> SlidingWindowSettings:
        """The part that concerns the sliding window."""
        return SlidingWindowSettings(
            overlap=self.overlap,
            gaussian=self.gaussian,
            mirroring=self.mirroring,
            batch_size=self.batch_size,
            sums=self.sums,
        )


def predict_cases(
    model: str | Path,
    source: Input,
    output: str | Path,
    settings: PredictSettings | None = None,
    *,
    progress: Progress = silent,
    build: Build = build_network,
    build_previous: Build | None = None,
    own: bool = False,
) -> PredictReport:
    """Predict a folder, a CSV table or a list of files.

    Beside ``<case><ending>`` the output folder receives the model's ``dataset.json`` and ``plans.json``, and
    ``predict.json`` with the arguments. Every file is written under a temporary name and renamed. A case that fails
    is reported and the others are done. Each case has a stamp of what made it, see ``storage/stamps.py``.

    Args:
        model: See `Predictor.load`.
        source: See `find_cases`.
        output: Folder for the label maps.
        settings: See `PredictSettings`.
        progress: Told of each case that ended.
        build, build_previous: See `Predictor.load`.
        own: Whether nobody but segflow writes into the output folder: predictions of another model are replaced then.

    Raises:
        SegflowError: The model cannot be loaded, there is no input, or the output folder cannot be written, holds
            predictions of another model, or files in the way that segflow did not write.
    """
    settings = PredictSettings() if settings is None else settings
    output = Path(output)
    if isinstance(source, (str, Path)) and Path(source).resolve() == output.resolve():
        raise SegflowError("the predictions need a folder of their own", found=f"input and output are both {output}")
    given = settings.previous_stage_predictions
    model, checkpoint = named_checkpoint(Path(model), settings.checkpoint)
    settings = replace(settings, checkpoint=checkpoint)
    predictor = Predictor.load(
        model,
        folds=settings.folds,
        checkpoint=settings.checkpoint,
        configuration=settings.configuration,
        device=settings.device,
        settings=settings.window,
        previous_stage=settings.previous_stage,
        with_previous_stage=given is None,
        build=build,
        build_previous=build_previous,
    )
    dataset = predictor.record.dataset
    endings = readable_endings(reader_by_name(predictor.record.plans.reader), dataset.file_ending)
    everything = find_cases(source, endings, len(dataset.channels))
    cases = part_of(everything, settings.part)
    decisive = _decisive(predictor, model, settings, build, build_previous)
    arguments = {"input": _text(source), **asdict(settings), **decisive}
    before = None if given is None else Path(given)
    predicted_before = predictor.plan.previous_stage and given is None
    if predicted_before:
        before = within(output, PREVIOUS_STAGE_FOLDER)
    family = {case.case_id for case in everything}
    last = _Stage("predict", predictor, output, settings, decisive, before, family, own)
    done = last.prepare(cases)
    last.write_documents(arguments)
    failed: dict[str, str] = {}
    if predicted_before and predictor.previous_stage is not None and before is not None:
        plain = replace(settings, probabilities=False, entropy=False, disagreement=False)
        name = f"predict {predictor.plan.previous_stage}"
        first = replace(
            last, name=name, predictor=predictor.previous_stage, output=before, settings=plain, previous=None
        )
        failed.update(first.run(cases, first.prepare(cases), progress).failed)
        cases = [case for case in cases if case.case_id not in failed]
        done = last.prepare(cases)  # again: it depends on what was made just now
    report = last.run(cases, done, progress)
    return replace(report, failed={**failed, **report.failed})


def _decisive(
    predictor: Predictor, model: str | Path, settings: PredictSettings, build: Build, build_previous: Build | None
) -> dict[str, Any]:
    """What decides label maps beside the images, as plain JSON; predictions of one folder must agree in it."""
    stages = [predictor] if predictor.previous_stage is None else [predictor, predictor.previous_stage]
    return {
        "model": str(Path(model).resolve()),
        "configuration": predictor.plan.name,
        "folds": list(predictor.folds),
        "checkpoint": settings.checkpoint,
        "weights": weights_digest(network for stage in stages for network in stage.networks),
        "plans": record_digest(*(stage.record for stage in stages)),
        "network": [described(build), None if build_previous is None else described(build_previous)],
        "previous_stage_predictions": settings.previous_stage_predictions,
        **{name: getattr(settings, name) for name in WINDOW_SETTINGS},
    }


@dataclass(frozen=True, slots=True)
class _Read:
    """What one case waits with to be computed; stamps of its files from before they were read."""

    preprocessed: PreprocessedCase
    inputs: dict[str, FileStamp]


@dataclass(frozen=True, slots=True)
class _Computed:
    """What one case waits with to be written."""

    read: _Read
    logits: Tensor
    fold_logits: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class _Stage:
    """One model and the folder that its label maps go to.

    Attributes:
        name: What to call it.
        predictor: The model.
        output: The folder.
        settings: How to predict.
        decisive: See `_decisive`.
        previous: Folder of the label maps that a cascade takes as input.
        family: Cases of all parts.
        own: See `predict_cases`.
    """

    name: str
    predictor: Predictor
    output: Path
    settings: PredictSettings
    decisive: dict[str, Any]
    previous: Path | None
    family: set[str]
    own: bool

    @property
    def reader(self) -> ImageIO:
        return reader_by_name(self.predictor.record.plans.reader)

    @property
    def maps(self) -> Maps:
        return Maps(self.predictor.plan, self.predictor.labels, self.reader, self.settings)

    @property
    def predictions(self) -> Predictions:
        return Predictions(self.output, self.predictor.record.dataset.file_ending)

    def origin(self, files: CaseFiles) -> Origin:
        before = {} if self.previous is None else {"previous_stage": self._previous_file(self.previous, files.case_id)}
        return Origin(WAY, VERSION, self.decisive, case_inputs(replace(files, label=None), before))

    def prepare(self, cases: Sequence[CaseFiles]) -> set[str]:
        """Refuse what is in the way, delete what is out of date, and say which cases are done."""
        wanted = {case.case_id: Wanted(self.origin(case), self.maps.files(self.output, case.case_id)) for case in cases}
        resume, documents = self.settings.resume, DOCUMENTS if self.name == "predict" else ()
        return self.predictions.prepare(wanted, documents=documents, family=self.family, resume=resume, own=self.own)

    def write_documents(self, arguments: dict[str, Any]) -> None:
        """Say in the folder what made its label maps."""
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
        return folder / f"{case_id}{self.predictor.record.dataset.file_ending}"

    def _read(self, files: CaseFiles) -> _Read:
        refuse_too_many(files, self.predictor.record.dataset.channels)
        inputs = self.origin(files).stamp_inputs()
        case = read_case(files, self.reader)
        if self.previous is None:
            return _Read(self.predictor.preprocess(case), inputs)
        label, _ = self.reader.read_label(self._previous_file(self.previous, files.case_id))
        if label.shape != case.image.shape[1:]:
            raise SegflowError(
                "the previous stage's label map has another shape than the image",
                case=files.case_id,
                found=label.shape,
                expected=case.image.shape[1:],
            )
        return _Read(self.predictor.preprocess(case, label), inputs)

    def _compute(self, files: CaseFiles, read: _Read) -> _Computed:
        predictor, case = self.predictor, read.preprocessed
        if not self.settings.disagreement:
            return _Computed(read, predictor.logits(case), ())
        apart = tuple(predictor.logits(case, fold=k) for k in range(len(predictor.networks)))
        return _Computed(read, mean_logits(logits.clone() for logits in apart), apart)

    def _write(self, files: CaseFiles, computed: _Computed) -> None:
        predictor, case = self.predictor, computed.read.preprocessed
        label = predictor.restore(computed.logits, case)
        votes = (predictor.restore(logits, case) for logits in computed.fold_logits)
        predictions = self.predictions
        with predictions.written(files.case_id, self.origin(files), computed.read.inputs) as place:
            self.maps.write(place, files.case_id, label, computed.logits, votes, case.spatial)
            target = place / predictions.file(files.case_id).name
            self.reader.write_label(label, case.spatial.geometry, target)


def _text(source: Input) -> str | list[str]:
    return str(source) if isinstance(source, (str, Path)) else [str(file) for file in source]
