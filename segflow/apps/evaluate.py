"""``segflow evaluate``: label maps and references → scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _next, _shards, _terminal
from segflow.apps._job_results import keep_failed
from segflow.apps._own_parts import own_parts
from segflow.apps._parts import Part
from segflow.apps._records import Command, Sharded, needed, within_memory
from segflow.core.case_part import WHOLE
from segflow.core.errors import CaseErrors, SegflowError
from segflow.evaluation.evaluate_settings import EvaluateSettings
from segflow.storage.file_names import DESCRIPTION_FILE

if TYPE_CHECKING:
    from segflow.core.dataset import DatasetDescription
    from segflow.core.labels import Labels
    from segflow.core.metrics import Summary


USE = "Use: segflow evaluate prediction=DIR reference=DIR"


@dataclass(kw_only=True)
class Evaluate(Sharded, Command):
    """Settings of ``segflow evaluate``.

    Attributes:
        prediction: Folder of label maps.
        reference: Folder of reference label maps.
        labels: A dataset.json, or its folder, that names the labels; null looks in and above the two folders.
        output: Folder for summary.json and metrics.csv; null takes that of the predictions.
        evaluation: Scores to compute, and how.
        metrics: Name → metric of your own, scored beside ours: ``{_target_: …}``.
    """

    SECTION: ClassVar = "evaluation"
    PLACES: ClassVar[tuple[str, ...]] = ("output", "prediction", "evaluation.part")

    prediction: Path | None = None
    reference: Path | None = None
    labels: Path | None = None
    output: Path | None = None
    evaluation: EvaluateSettings = field(default_factory=EvaluateSettings)
    metrics: dict[str, Part | None] = field(default_factory=dict)


@within_memory
def run(settings: Evaluate) -> None:
    """Score a folder of label maps, and print the table."""
    from segflow.evaluation.summary import SUMMARY_FILE, TABLE_FILE

    summary = evaluate(settings)
    prediction, reference = _folders(settings)
    output = settings.output or prediction
    if settings.evaluation.part != WHOLE:
        kept = f"Scored {_terminal.cases(len(summary.cases))} of part {settings.evaluation.part}"
        _terminal.say(f"{kept}. The same command without part= makes {SUMMARY_FILE} when all parts are scored.")
    else:
        labels = description_beside(settings.labels, prediction, reference).labels
        show(summary, labels, f"{prediction} against {reference}")
        _terminal.say(f"Written to {output / SUMMARY_FILE} and {output / TABLE_FILE}.")
        _next.say([] if summary.failed else _next.after_evaluate(prediction, reference))
    check_failed(summary)


def evaluate(settings: Evaluate) -> Summary:
    """Score a folder of label maps, and write summary.json and metrics.csv.

    Raises:
        SegflowError: A folder is not named, or no case could be scored. Cases that failed beside others are in
            ``failed`` of the result.
    """
    from segflow.evaluation.summary import SUMMARY_FILE, TABLE_FILE
    from segflow.storage.stamps import StampedFolder

    prediction, reference = _folders(settings)
    output = settings.output or prediction
    StampedFolder(output).refuse_foreign({SUMMARY_FILE: [output / SUMMARY_FILE, output / TABLE_FILE]})
    description = description_beside(settings.labels, prediction, reference)
    return _evaluated(settings, prediction, reference, description)


def check_failed(summary: Summary) -> None:
    """Raise one error for all cases that could not be scored.

    Raises:
        CaseErrors: There are such cases.
    """
    if summary.failed:
        keep_failed(summary.failed)
        raise CaseErrors("some cases could not be evaluated", _shards.problems(summary.failed.values()))


def _folders(settings: Evaluate) -> tuple[Path, Path]:
    """The folders of predictions and references."""
    return needed(settings.prediction, "prediction", USE), needed(settings.reference, "reference", USE)


def _evaluated(settings: Evaluate, prediction: Path, reference: Path, description: DatasetDescription) -> Summary:
    """The scores, by jobs that share the cases if asked for.

    Raises:
        CaseErrors: No case could be scored.
    """
    from segflow.evaluation.evaluate_cases import evaluate_cases

    shards = _shards.of_jobs("evaluate", settings, "evaluation")
    try:
        with _shards.progress(shards) as progress:
            return evaluate_cases(
                prediction,
                reference,
                description.labels,
                settings.evaluation,
                file_ending=description.label_ending,
                reader=description.reader,
                output=settings.output or prediction,
                metrics=own_parts("metrics", settings.metrics),
                progress=progress,
                elsewhere=shards,
            )
    except CaseErrors as error:
        raise CaseErrors(error.summary, _shards.problems(error.problems), error.advice) from error


def show(summary: Summary, labels: Labels, title: str) -> None:
    """Print the table of scores, one row for each label or region."""
    from segflow.evaluation.summary import table_rows

    header, *rows = table_rows(summary, labels)
    _terminal.table(title, header, rows)


def description_beside(given: Path | None, prediction: Path, reference: Path) -> DatasetDescription:
    """The dataset.json that names the labels: the given one, or one beside the label maps."""
    from segflow.storage.dataset_json import read_dataset_json

    candidates = []
    if given:
        candidates.append(given / DESCRIPTION_FILE if given.is_dir() else given)
    candidates += [folder / DESCRIPTION_FILE for folder in (prediction, reference, reference.parent, prediction.parent)]
    for file in candidates:
        if file.is_file():
            return read_dataset_json(file, file.parent.name)
        if given:
            raise SegflowError(f"there is no {file}", expected="a dataset.json that names the labels")
    raise SegflowError(
        "no dataset.json names the labels",
        expected="a dataset.json in or above the folder of references or predictions",
        fix="Name it: labels=/data/Dataset042_X/dataset.json",
    )
