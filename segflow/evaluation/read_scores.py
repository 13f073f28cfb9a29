"""Scores of a run, a fold, a folder with ``summary.json``, a model folder of nnU-Net, or a CSV file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels, key_text
from segflow.core.metrics import METRICS, SHARES, CaseMetrics, Summary
from segflow.core.names import is_number
from segflow.core.run_record import RunRecord
from segflow.core.wording import some
from segflow.evaluation.all_scores import kept_all_scores
from segflow.evaluation.score_table import ScoreTable, refuse_twice
from segflow.evaluation.summary import SUMMARY_FILE, read_scores_of, read_summary
from segflow.storage.dataset_json import read_dataset_json
from segflow.storage.file_names import DESCRIPTION_FILE, FOLD_PREFIX
from segflow.storage.find_folds import find_folds
from segflow.storage.folds import RECORD_FILE, Fold
from segflow.storage.json_files import read_json
from segflow.storage.tables import CASE_HEADINGS, Line, column_of, read_table

EXPECTED = "the folder of a run or fold, a folder with summary.json, or a CSV file with a row for each case"
WORDS = ("label", "name", "fold", "file", "prediction_file", "reference_file")
"""Columns of a CSV file that are no metrics."""
ROUNDING = 1e-6
"""A share may be larger than 1 by this."""

OfFold = Callable[[Fold, RunRecord], Summary]
"""Reads or computes the scores of a fold."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores at a path.

    Attributes:
        table: The scores.
        files: The files that they were read from.
        label_names: Label, as ``summary.json`` writes it → its name; empty if it is not known.
        records: Record of each fold of a run; empty for scores of another origin.
        notes: What to know about them, one sentence each.
    """

    table: ScoreTable
    files: tuple[Path, ...]
    label_names: Mapping[str, str]
    records: tuple[RunRecord, ...] = ()
    notes: tuple[str, ...] = ()


def read_scores(path: Path, name: str, of_fold: OfFold | None = None) -> Scores:
    """Read the scores at a path.

    Args:
        path: See `EXPECTED`; of a run all numbered folds are taken together.
        name: Its name in messages.
        of_fold: Scores of a fold of a run; None takes those that are stored.

    Raises:
        SegflowError: There are none, they cannot be used, or they are of cases that the model was trained on.
    """
    if path.is_file():
        return _of_file(path, name)
    if not path.is_dir():
        raise SegflowError(f"there is no {path}", expected=EXPECTED)
    if (path / RECORD_FILE).is_file() or any(path.glob(f"{FOLD_PREFIX}*/{RECORD_FILE}")):
        return _of_run(path, name, of_fold or stored_scores)
    folds = [folder.parent.parent for folder in sorted(path.glob(f"{FOLD_PREFIX}*/validation/{SUMMARY_FILE}"))]
    if folds or (path / "validation" / SUMMARY_FILE).is_file():
        return _of_nnunet(folds or [path], name)
    if (path / SUMMARY_FILE).is_file():
        return _of_folder(path, name)
    raise SegflowError(f"{path} holds no scores", expected=EXPECTED, fix="Score it: segflow evaluate")


def stored_scores(fold: Fold, record: RunRecord) -> Summary:
    """The scores of a fold that are there: all of `segflow report`, if they are of its label maps, or those of the
    training."""
    ending = record.dataset.label_ending
    return kept_all_scores(fold.validation, ending) or read_scores_of(fold.validation, ending)


def alike(cases: Sequence[CaseMetrics]) -> list[CaseMetrics]:
    """The cases with the metrics that all have: not every fold may have all scores."""
    tables = [set(scores) for case in cases for scores in case.metrics.values()]
    shared = set.intersection(*tables) if tables else set()
    return [
        replace(
            case,
            metrics={
                key: {name: value for name, value in scores.items() if name in shared}
                for key, scores in case.metrics.items()
            },
        )
        for case in cases
    ]


def _of_run(path: Path, name: str, of_fold: OfFold) -> Scores:
    folds = find_folds(path)
    numbered = [fold for fold in folds if is_number(fold.fold)]
    if not numbered:
        raise _seen(name, f"{folds[0].path} was trained on all cases")
    scored = [fold for fold in numbered if (fold.validation / SUMMARY_FILE).is_file()]
    notes = [f"{name}: fold {fold.fold} has no scores yet." for fold in numbered if fold not in scored]
    if not scored:
        raise SegflowError(f"{name} has no scores yet", found=str(path), fix="Finish the training, which validates.")
    records = [fold.read_record() for fold in scored]
    summaries = [of_fold(fold, record) for fold, record in zip(scored, records, strict=True)]
    for fold, record, summary in zip(scored, records, summaries, strict=True):
        seen = {case.case_id for case in summary.cases} & set(record.train_cases)
        if seen:
            raise _seen(name, f"fold {fold.fold} was trained on {some(sorted(seen))}")
    table = ScoreTable.of_summary(name, _together(summaries))
    files = tuple(fold.validation / SUMMARY_FILE for fold in scored)
    return Scores(table, files, _names(records[0].dataset.labels), tuple(records), (*notes, *_failed(name, summaries)))


def _of_nnunet(folds: Sequence[Path], name: str) -> Scores:
    """A model folder of nnU-Net, or one of its folds."""
    numbered = [fold for fold in folds if is_number(fold.name.removeprefix(FOLD_PREFIX))]
    if not numbered:
        raise _seen(name, f"{folds[0]} was trained on all cases")
    description = _description([numbered[0].parent, numbered[0]])
    files = [fold / "validation" / SUMMARY_FILE for fold in numbered]
    summaries = [read_summary(file, description.label_ending if description else "") for file in files]
    table = ScoreTable.of_summary(name, _together(summaries))
    return Scores(
        table, tuple(files), _names(description.labels if description else None), (), _failed(name, summaries)
    )


def _of_folder(path: Path, name: str) -> Scores:
    description = _description([path, path.parent])
    summary = read_summary(path / SUMMARY_FILE, description.label_ending if description else "")
    _refuse_predictions_of_seen(path, name, {case.case_id for case in summary.cases})
    table = ScoreTable.of_summary(name, Summary.of_cases(summary.cases) if summary.cases else summary)
    return Scores(
        table, (path / SUMMARY_FILE,), _names(description.labels if description else None), (), _failed(name, [summary])
    )


def _of_file(path: Path, name: str) -> Scores:
    if path.suffix.lower() == ".csv":
        return _of_csv(path, name)
    if path.name == SUMMARY_FILE:
        return _of_folder(path.parent, name)
    raise SegflowError(f"{path} holds no scores that are known here", expected=EXPECTED)


def _together(summaries: Sequence[Summary]) -> Summary:
    cases = alike([case for summary in summaries for case in summary.cases])
    if len({tuple(case.metrics) for case in cases}) > 1:
        raise SegflowError("the folds have scores of different labels", fix="Score them with the same dataset.json.")
    return Summary.of_cases(cases)


def _failed(name: str, summaries: Iterable[Summary]) -> tuple[str, ...]:
    failed = sorted(case for summary in summaries for case in summary.failed)
    return (f"{name}: cases that could not be scored are left out: {some(failed)}",) if failed else ()


def _refuse_predictions_of_seen(folder: Path, name: str, cases: set[str]) -> None:
    """Refuse predictions of a run's own training cases, as far as ``predict.json`` and the run are there."""
    file = folder / "predict.json"
    content = read_json(file) if file.is_file() else {}
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model, str) or not Path(model).is_dir():
        return
    try:
        folds = find_folds(Path(model))
    except SegflowError:
        return
    used = set(map(str, content.get("folds") or [fold.fold for fold in folds]))
    for fold in folds:
        seen = cases & set(fold.read_record().train_cases) if fold.fold in used else set()
        if seen:
            raise _seen(name, f"{fold.path}, which predicted them, was trained on {some(sorted(seen))}")


def _seen(name: str, why: str) -> SegflowError:
    return SegflowError(
        f"the scores of {name} are of cases that the model was trained on, and say nothing about new ones",
        found=why,
        fix="Compare validation cases of numbered folds, or predictions of other images.",
    )


def _description(folders: Iterable[Path]) -> DatasetDescription | None:
    """The dataset.json in the first folder that has one."""
    file = next((file for folder in folders if (file := folder / DESCRIPTION_FILE).is_file()), None)
    return read_dataset_json(file, file.parent.name) if file else None


def _names(labels: Labels | None) -> dict[str, str]:
    return {key_text(key): labels.name_of(key) for key in labels.foreground_keys} if labels else {}


# ------------------------------------------------------------------------------------------------------------- CSV


def _of_csv(path: Path, name: str) -> Scores:
    """A table with a heading: a column of cases, perhaps one of labels, and metrics in the others."""
    lines = read_table(path)
    heading = [cell.strip() for cell in lines[0].cells] if lines else []
    lower = [cell.lower() for cell in heading]
    case = column_of(heading, CASE_HEADINGS)
    if case is None:
        raise SegflowError(
            f"{path} has no column of cases", found=", ".join(heading), expected=", ".join(CASE_HEADINGS)
        )
    label = lower.index("label") if "label" in lower else None
    own = [place for place in range(len(heading)) if place != case and lower[place] not in WORDS]
    known = {metric.lower(): metric for metric in METRICS}
    names = [known.get(lower[place], heading[place]) for place in own]
    rows: dict[tuple[str, str], list[float]] = {}
    for line in lines[1:]:
        cells = [*line.cells, *[""] * (len(heading) - len(line.cells))]
        key = (cells[case], cells[label] if label is not None else "score")
        if key in rows:
            refuse_twice(str(path), [key[0], key[0]])
        rows[key] = [_value(path, line.number, heading[place], cells[place]) for place in own]
    if not rows or not own:
        raise SegflowError(
            f"{path} holds no scores", found=", ".join(heading), expected="a case and metrics in each row"
        )
    table = _csv_table(name, rows, names)
    _check_shares(path, table)
    return Scores(table, (path,), _csv_names(lines[1:], label, lower))


def _check_shares(path: Path, table: ScoreTable) -> None:
    for metric in SHARES:
        values = table.values.get(metric, np.zeros(0))
        wrong = values[(values < 0) | (values > 1 + ROUNDING)]
        if wrong.size:
            raise SegflowError(
                f"{path}: {metric} must lie between 0 and 1",
                found=f"{wrong[0]:g}",
                fix="Divide percentages by 100.",
            )


def _csv_table(name: str, rows: Mapping[tuple[str, str], Sequence[float]], metrics: Sequence[str]) -> ScoreTable:
    cases = list(dict.fromkeys(case for case, _ in rows))
    labels = list(dict.fromkeys(label for _, label in rows))
    table = np.full((len(cases), len(labels), len(metrics)), np.nan)
    place = {case: number for number, case in enumerate(cases)}
    for (case, label), values in rows.items():
        table[place[case], labels.index(label)] = values
    by_metric = {metric: table[:, :, number] for number, metric in enumerate(metrics)}
    absent = np.zeros(table.shape[:2], bool)
    if {"n_ref", "n_pred"} <= by_metric.keys():
        absent = (by_metric["n_ref"] == 0) & (by_metric["n_pred"] == 0)
    return ScoreTable(name, tuple(cases), tuple(labels), by_metric, absent)


def _csv_names(lines: Sequence[Line], label: int | None, lower: Sequence[str]) -> dict[str, str]:
    """Label → name, where both are columns, as in ``metrics.csv``."""
    if label is None or "name" not in lower:
        return {}
    place = lower.index("name")
    return {line.cells[label]: line.cells[place] for line in lines if len(line.cells) > max(label, place)}


def _value(path: Path, line: int, heading: str, text: str) -> float:
    if text.lower() in ("", "nan", "na", "none", "null"):
        return math.nan
    try:
        return float(text)
    except ValueError:
        has_comma = re.fullmatch(r"-?\d+,\d+", text) is not None
        raise SegflowError(
            f"{path}, line {line}: '{heading}' is no number",
            found=text,
            fix="Write it with a decimal point; a comma may also part thousands."
            if has_comma
            else "Leave columns of words out, or empty cells where there is no score.",
        ) from None
