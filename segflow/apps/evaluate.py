"""``segflow evaluate``: label maps and references → scores."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _edge, _terminal
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.labels import Labels
from segflow.core.metrics import Summary
from segflow.evaluation.evaluate_cases import evaluate_cases
from segflow.evaluation.evaluate_settings import EvaluateSettings
from segflow.evaluation.summary import SUMMARY_FILE, TABLE_FILE, table_rows
from segflow.storage.raw_dataset import read_dataset_json
from segflow.storage.stamps import StampedFolder


def run(config: DictConfig) -> None:
    """Score a folder of label maps, and print the table."""
    for name in ("prediction", "reference"):
        if not config[name]:
            raise SegflowError(f"{name}= is missing", fix="Use: segflow evaluate prediction=DIR reference=DIR")
    prediction, reference = Path(config.prediction).expanduser(), Path(config.reference).expanduser()
    output = Path(config.output).expanduser() if config.output else prediction
    StampedFolder(output).refuse_foreign({SUMMARY_FILE: [output / SUMMARY_FILE, output / TABLE_FILE]})
    description = description_beside(config.labels, prediction, reference)
    with _terminal.progress() as progress:
        summary = evaluate_cases(
            prediction,
            reference,
            description.labels,
            _edge.read(EvaluateSettings, config.evaluation),
            file_ending=description.file_ending,
            reader=description.reader,
            output=output,
            progress=progress,
        )
    show(summary, description.labels, f"{prediction} against {reference}")
    _terminal.say(f"Written to {output / SUMMARY_FILE} and {output / TABLE_FILE}.")
    if summary.failed:
        raise CaseErrors("some cases could not be evaluated", list(summary.failed.values()))


def show(summary: Summary, labels: Labels, title: str) -> None:
    """The table of scores, one row for each label or region."""
    header, *rows = table_rows(summary, labels)
    _terminal.table(title, header, rows)


def description_beside(given: str | None, prediction: Path, reference: Path) -> DatasetDescription:
    """The dataset.json that names the labels: the one given, or one beside the label maps."""
    candidates = []
    if given:
        place = Path(given).expanduser()
        candidates.append(place / "dataset.json" if place.is_dir() else place)
    candidates += [folder / "dataset.json" for folder in (prediction, reference, reference.parent, prediction.parent)]
    for file in candidates:
        if file.is_file():
            return read_dataset_json(file, file.parent.name)
        if given:
            raise SegflowError(f"there is no {file}", expected="a dataset.json that names the labels")
    raise SegflowError(
        "nothing says what the labels mean",
        expected="a dataset.json in or above the folder of references or predictions",
        fix="Name it: labels=/data/Dataset042_X/dataset.json",
    )
