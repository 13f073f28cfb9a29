"""The pages of ``segflow report`` about runs: what stands in them, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segflow.apps import _terminal
from segflow.apps._compared import by_settings, grouped
from segflow.apps._records import PathSettings
from segflow.apps._reported import Scope, read_run
from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.labels import key_text
from segflow.core.metrics import HEADINGS, Summary
from segflow.core.selection import Selection
from segflow.evaluation.compare import estimate_mean
from segflow.evaluation.compare_scores import compare_scores
from segflow.evaluation.comparison_words import OF_PAIRS, OF_RANKS, left_out, pair_rows, rank_rows, verdicts
from segflow.evaluation.fold_rows import fold_rows
from segflow.evaluation.read_scores import Scores
from segflow.evaluation.score_rows import metrics_of_all, score_rows
from segflow.evaluation.score_table import ScoreTable
from segflow.evaluation.summary import format_estimate, table_rows
from segflow.reporting.reported_run import ReportedRun
from segflow.reporting.write_report import Table, write_report
from segflow.selection.select_configuration import SELECTION_FILE
from segflow.selection.table import selection_rows
from segflow.storage.json_files import read_json_as
from segflow.storage.raw_dataset import find_training_cases, read_description, resolve_dataset
from segflow.storage.runs import Run, names_of_runs

OF_INTERVALS = (
    "Means over the cases in which a label occurs, with their 95 % confidence interval by bootstrap over the cases."
)


@dataclass(frozen=True, slots=True)
class Options:
    """Where a page finds its content, and what it shows.

    Attributes:
        paths: Folders with the reference label maps and images.
        channel: Channel of the images to show.
        all_scores: Compute all scores of ``segflow evaluate``.
    """

    paths: PathSettings
    channel: int = 0
    all_scores: bool = True


def write(folder: Path, page: Path, options: Options, *, raw: Path | None = None) -> None:
    """Write the page of a run.

    Args:
        folder: Folder of a run, whose folds are reported together, or of a fold.
        page: The file to write.
        options: See `Options`.
        raw: The raw dataset; None finds it by its name.
    """
    with _terminal.progress() as progress:
        reported, notes = read_run(folder, folder.name, Scope(options.paths, options.all_scores, progress))
    try:
        images = _images(raw or resolve_dataset(reported.record.dataset.name, options.paths.raw))
    except SegflowError as error:
        images, notes = {}, [*notes, f"There are no pictures of cases: {error}"]
    write_report(
        page,
        [reported],
        headline=_headline(reported),
        tables=[*_decision(reported), *_scores(reported)],
        images=images,
        notes=notes,
        channel=options.channel,
    )


def compare(folders: Sequence[Path], page: Path, options: Options) -> None:
    """Write a page that compares runs with each other, on the cases that all of them have.

    Args:
        folders: Folders of runs or folds, at least two.
        page: The file to write.
        options: See `Options`.

    Raises:
        SegflowError: The runs have different labels, or have scores of different cases only.
    """
    runs, notes = [], []
    with _terminal.progress() as progress:
        for folder, name in zip(folders, names_of_runs(folders), strict=True):
            reported, remarks = read_run(folder, name, Scope(options.paths, options.all_scores, progress))
            runs.append(reported)
            notes += [f"{name}: {remark}" for remark in remarks]
    _check_labels(runs)
    shared, more = _on_shared_cases(runs)
    tables, told = _comparison(shared)
    write_report(page, shared, tables=tables, notes=[*notes, *more, *told])


def _check_labels(runs: Sequence[ReportedRun]) -> None:
    for run in runs[1:]:
        if run.record.dataset.labels != runs[0].record.dataset.labels:
            raise SegflowError(
                "only runs with the same labels can be compared",
                found=f"{runs[0].name} ({runs[0].record.dataset.name}), {run.name} ({run.record.dataset.name})",
            )


def _on_shared_cases(runs: Sequence[ReportedRun]) -> tuple[list[ReportedRun], list[str]]:
    """The runs with scores of those cases that all scored runs have, and a remark if some are left out."""
    sets = [{case.case_id for case in run.summary.cases} for run in runs if run.summary.cases]
    shared = set.intersection(*sets) if sets else set()
    if sets and not shared:
        raise SegflowError(
            "the runs have no scored case in common",
            found=", ".join(f"{run.name}: folds {' '.join(fold.fold for fold in run.folds)}" for run in runs),
            fix="Train and validate the same folds of each.",
        )
    most = max(map(len, sets), default=0)
    notes = [f"Compared on the {len(shared)} cases that all runs have."] if most > len(shared) else []
    return [replace(run, summary=_restricted(run.summary, shared)) for run in runs], notes


def _restricted(summary: Summary, cases: set[str]) -> Summary:
    return Summary.of_cases([case for case in summary.cases if case.case_id in cases], summary.failed)


def _comparison(runs: Sequence[ReportedRun]) -> tuple[list[Table], list[str]]:
    """Tables of the runs that have scores, as those of ``segflow compare``; and remarks."""
    scored = [run for run in runs if run.summary.cases]
    if len(scored) < 2:
        return [], []
    labels = scored[0].record.dataset.labels
    names = {key_text(key): labels.name_of(key) for key in labels.foreground_keys}
    sources = [Scores(ScoreTable.of_summary(run.name, run.summary), (), names, tuple(run.records)) for run in scored]
    contenders = by_settings(sources)
    found = compare_scores(contenders, label_names=names)
    side = score_rows([run.name for run in scored], [run.summary for run in scored], labels)
    tables = [
        Table("Side by side", side, "Means over the cases.", texts=2),
        Table("Verdicts", [["pair"], *([line] for line in verdicts(found))]),
    ]
    if found.rows:
        tables.append(Table("Differences", pair_rows(found), OF_PAIRS, texts=4))
        tables.append(Table("Ranks", rank_rows(found), OF_RANKS, texts=2))
    return tables, [*grouped(contenders), *found.notes, *left_out(found)]


def _headline(reported: ReportedRun) -> dict[str, str]:
    """The few numbers that stand first."""
    summary = reported.summary
    if not summary.cases:
        return {}
    values = {
        f"mean {HEADINGS[metric]}": format_estimate(estimate_mean(summary.values(metric)))
        for metric in metrics_of_all([summary])
    }
    return {**values, "cases": str(len(summary.cases)), "folds scored": str(len(set(reported.fold_of.values())))}


def _scores(reported: ReportedRun) -> list[Table]:
    """Tables of the scores: by label, and by fold."""
    summary, labels = reported.summary, reported.record.dataset.labels
    if not summary.cases:
        return []
    by_label = Table("By label", table_rows(summary, labels), OF_INTERVALS)
    folds = Table("By fold", fold_rows(summary, reported.fold_of, labels), "Means over the cases of each fold.")
    return [by_label, folds]


def _decision(reported: ReportedRun) -> list[Table]:
    """What ``segflow select`` decided about the dataset, if it did."""
    run = Run.of(reported.folds[0].path.resolve()).path
    file = run.parents[2] / SELECTION_FILE
    if not file.is_file():
        return []
    try:
        selection = read_json_as(file, Selection.from_json)
    except SegflowError:
        return []
    best = selection.best
    chosen = any(Path(member).parts[-3:] == run.parts[-3:] for member in best.runs)
    words = [
        f"Chosen on {len(selection.cases)} cases: {best.name}, with Dice {best.dice:.4f}, "
        f"and {selection.dice_after:.4f} after the chosen postprocessing.",
        *selection.notes,
        *([] if chosen else ["The run of this page is not the chosen one."]),
    ]
    return [Table("Decision of segflow select", selection_rows(selection), " ".join(words))]


def _images(raw: Path) -> Mapping[str, CaseFiles]:
    return {case.case_id: case for case in find_training_cases(raw, read_description(raw))}
