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
from segflow.inference.find_cases import Input, find_cases, part_of
from segflow.inference.load_network import Build
from segflow.inference.maps import Maps
from segflow.inference.pipeline import PredictReport, Steps, run_cases
from segflow.inference.predictor import Predictor
from segflow.inference.sliding_window import SlidingWindowSettings, mean_logits
from segflow.network.build import build_network
from segflow.storage.images import read_case, reader_by_name
from segflow.storage.json_files import read_json, write_json

logger = logging.getLogger(__name__)

ARGUMENTS_FILE = "predict.json"
PREVIOUS_STAGE_FOLDER = "previous_stage"
MODEL_KEYS = (
    *("model", "configuration", "folds", "checkpoint", "weights", "previous_stage_predictions"),
    *("overlap", "gaussian", "mirroring", "sums"),
)
"""What decides the label maps; predictions of one folder must agree in it."""


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
        resume: Skip cases whose outputs exist.
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
) -> PredictReport:
    """Predict a folder, a CSV table or a list of files.

    Beside ``<case><ending>`` the output folder receives the model's ``dataset.json`` and ``plans.json``, and
    ``predict.json`` with the arguments. Every file is written under a temporary name and renamed. A case that fails
    is reported and the others are done.

    Args:
        model: See `Predictor.load`.
        source: See `find_cases`.
        output: Folder for the label maps.
        settings: See `PredictSettings`.
        progress: Told of each case that ended.
        build, build_previous: See `Predictor.load`.

    Raises:
        SegflowError: The model cannot be loaded, there is no input, or the output folder cannot be written or holds
            the predictions of another model.
    """
    settings = PredictSettings() if settings is None else settings
    output = Path(output)
    if isinstance(source, (str, Path)) and Path(source).resolve() == output.resolve():
        raise SegflowError("the predictions need a folder of their own", found=f"input and output are both {output}")
    given = settings.previous_stage_predictions
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
    cases = part_of(find_cases(source, predictor.record.dataset.file_ending), settings.part)
    _write_arguments(output, predictor, {"model": str(Path(model).resolve()), "input": _text(source)}, settings)
    before = None if given is None else Path(given)
    failed: dict[str, str] = {}
    if predictor.plan.previous_stage and before is None and predictor.previous_stage is not None:
        before = output / PREVIOUS_STAGE_FOLDER
        plain = replace(settings, probabilities=False, entropy=False, disagreement=False)
        stage = f"predict {predictor.plan.previous_stage}"
        first = _predict(predictor.previous_stage, cases, before, plain, None, progress, stage)
        failed.update(first.failed)
        cases = [case for case in cases if case.case_id not in failed]
    report = _predict(predictor, cases, output, settings, before, progress)
    return replace(report, failed={**failed, **report.failed})


@dataclass(frozen=True, slots=True)
class _Computed:
    """What one case waits with to be written."""

    preprocessed: PreprocessedCase
    logits: Tensor
    fold_logits: tuple[Tensor, ...]


def _predict(
    predictor: Predictor,
    cases: Sequence[CaseFiles],
    output: Path,
    settings: PredictSettings,
    previous: Path | None,
    progress: Progress,
    stage: str = "predict",
) -> PredictReport:
    reader = reader_by_name(predictor.record.plans.reader)
    ending = predictor.record.dataset.file_ending
    maps = Maps(output, predictor.plan, predictor.labels, reader, settings)

    def read(files: CaseFiles) -> PreprocessedCase:
        case = read_case(files, reader)
        if previous is None:
            return predictor.preprocess(case)
        label, _ = reader.read_label(previous / f"{files.case_id}{ending}")
        if label.shape != case.image.shape[1:]:
            raise SegflowError(
                "the previous stage's label map has another shape than the image",
                case=files.case_id,
                found=label.shape,
                expected=case.image.shape[1:],
            )
        return predictor.preprocess(case, label)

    def compute(files: CaseFiles, preprocessed: PreprocessedCase) -> _Computed:
        if not settings.disagreement:
            return _Computed(preprocessed, predictor.logits(preprocessed), ())
        apart = tuple(predictor.logits(preprocessed, fold=k) for k in range(len(predictor.networks)))
        return _Computed(preprocessed, mean_logits(logits.clone() for logits in apart), apart)

    def write(files: CaseFiles, computed: _Computed) -> None:
        label = predictor.restore(computed.logits, computed.preprocessed)
        votes = (predictor.restore(logits, computed.preprocessed) for logits in computed.fold_logits)
        maps.write(files.case_id, label, computed.logits, votes, computed.preprocessed.spatial)
        # Last: a label map says that the case is done.
        reader.write_label(label, computed.preprocessed.spatial.geometry, output / f"{files.case_id}{ending}")

    def is_done(case_id: str) -> bool:
        return all(file.is_file() for file in (output / f"{case_id}{ending}", *maps.files(case_id)))

    maps.write_names()
    steps = Steps(stage, read, compute, write, is_done)
    return run_cases(steps, {case.case_id: case for case in cases}, settings, progress)


def _write_arguments(output: Path, predictor: Predictor, arguments: dict[str, Any], settings: PredictSettings) -> None:
    """Say in the output folder what made its label maps; refuse to mix them with another model's."""
    used = {"configuration": predictor.plan.name, "folds": list(predictor.folds), "weights": predictor.weights_digest()}
    arguments |= {**asdict(settings), **used}
    file = output / ARGUMENTS_FILE
    if settings.resume and file.is_file():
        earlier = read_json(file)
        for key in MODEL_KEYS:
            if earlier.get(key) != arguments.get(key):
                raise SegflowError(
                    f"{output} holds predictions made with another '{key}'",
                    found=earlier.get(key),
                    expected=arguments.get(key),
                    fix="Choose another output folder, or predict everything anew with inference.resume=false.",
                )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegflowError(f"cannot write into {output}: {error.strerror}", fix="Choose another folder.") from error
    write_json(output / "dataset.json", predictor.record.dataset.to_json())
    write_json(output / "plans.json", predictor.record.plans.to_json())
    write_json(file, arguments)


def _text(source: Input) -> str | list[str]:
    return str(source) if isinstance(source, (str, Path)) else [str(file) for file in source]
