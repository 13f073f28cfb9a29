"""``segflow report``: trained runs → one page with scores, curves and pictures, or a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _next, _terminal
from segflow.apps._records import Command, PathSettings, needed, within_memory
from segflow.core.errors import SegflowError

if TYPE_CHECKING:
    from segflow.core.case import CaseFiles
    from segflow.reporting.reported_run import ReportedRun
    from segflow.reporting.write_report import Table


PAGE = "report.html"
OF_INTERVALS = (
    "Means over the cases in which a label occurs, with their 95 % confidence interval by bootstrap over the cases."
)


@dataclass(kw_only=True)
class Report(Command):
    """Settings of ``segflow report``.

    Attributes:
        run: Folder of a run or a fold.
        output: The page to write; null takes report.html in the run folder.
        channel: Channel of the images to show.
        all_scores: Compute HD95, surface Dice and the other scores of ``segflow evaluate`` for the validation cases,
            once; false shows those that the validation stored.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("output", "run")

    run: Path | None = None
    output: Path | None = None
    channel: int = 0
    all_scores: bool = True


@within_memory
def run(settings: Report) -> None:
    """Write the page, and print its path."""
    folder = needed(settings.run, "run", "Use: segflow report run=RUN_FOLDER")
    page = settings.output or folder / PAGE
    from segflow.storage.stamps import StampedFolder

    if settings.output:  # only segflow writes into a run's folder
        StampedFolder(page.parent).refuse_foreign({page.name: [page]})
    write(folder, page, settings.paths, channel=settings.channel, full=settings.all_scores)
    _terminal.say(f"Written to {page}.")
    _next.say(_next.after_report(folder, settings.paths))


def write(
    folder: Path, page: Path, paths: PathSettings, *, raw: Path | None = None, channel: int = 0, full: bool = True
) -> None:
    """Write the page of a run.

    Args:
        folder: Folder of a run, whose folds are reported together, or of a fold.
        page: The file to write.
        paths: Folders with the reference label maps and images.
        raw: The raw dataset; None finds it by its name.
        channel: Channel of the images to show.
        full: Compute all scores of ``segflow evaluate``.
    """
    from segflow.storage.find_folds import find_folds

    find_folds(folder)[0].read_record()  # a missing run is reported before what is slow
    from segflow.apps._reported import Scope, read_run
    from segflow.reporting.write_report import write_report
    from segflow.storage.raw_dataset import resolve_dataset

    with _terminal.progress() as progress:
        reported, notes = read_run(folder, folder.name, Scope(paths, full, progress))
    try:
        images = _images(raw or resolve_dataset(reported.record.dataset.name, paths.raw))
    except SegflowError as error:
        images, notes = {}, [*notes, f"There are no pictures of cases: {error}"]
    write_report(
        page,
        [reported],
        headline=_headline(reported),
        tables=[*_decision(reported), *_scores(reported)],
        images=images,
        notes=notes,
        channel=channel,
    )


def _headline(reported: ReportedRun) -> dict[str, str]:
    """The few numbers that stand first."""
    from segflow.core.metrics import HEADINGS
    from segflow.evaluation.compare import estimate_mean
    from segflow.evaluation.summary import format_estimate

    summary = reported.summary
    if not summary.cases:
        return {}
    computed = next(iter(summary.mean.values()))
    shown = [metric for metric in ("Dice", "hd95_mm", "surface_dice") if metric in computed]
    values = {f"mean {HEADINGS[m]}": format_estimate(estimate_mean(summary.values(m))) for m in shown}
    return {**values, "cases": str(len(summary.cases)), "folds scored": str(len(set(reported.fold_of.values())))}


def _scores(reported: ReportedRun) -> list[Table]:
    """Tables of the scores: by label, and by fold."""
    from segflow.evaluation.fold_rows import fold_rows
    from segflow.evaluation.summary import table_rows
    from segflow.reporting.write_report import Table

    summary, labels = reported.summary, reported.record.dataset.labels
    if not summary.cases:
        return []
    by_label = Table("By label", table_rows(summary, labels), OF_INTERVALS)
    folds = Table("By fold", fold_rows(summary, reported.fold_of, labels), "Means over the cases of each fold.")
    return [by_label, folds]


def _decision(reported: ReportedRun) -> list[Table]:
    """What ``segflow select`` decided about the dataset, if it did."""
    from segflow.core.selection import Selection
    from segflow.reporting.write_report import Table
    from segflow.selection.select_configuration import SELECTION_FILE
    from segflow.selection.table import selection_rows
    from segflow.storage.json_files import read_json_as
    from segflow.storage.runs import Run

    run = Run.of(reported.folds[0].path.resolve()).path
    file = run.parents[2] / SELECTION_FILE
    if not file.is_file():
        return []
    try:
        selection = read_json_as(file, Selection.from_json)
    except SegflowError:
        return []
    chosen = any(Path(member).parts[-3:] == run.parts[-3:] for member in selection.best.runs)
    words = [
        f"Chosen on {len(selection.cases)} cases: {selection.best.name}, Dice {selection.best.dice:.4f}, "
        f"and {selection.dice_after:.4f} with the chosen postprocessing.",
        *selection.notes,
        "" if chosen else "The run of this page is not the chosen one.",
    ]
    return [Table("Decision of segflow select", selection_rows(selection), " ".join(filter(None, words)))]


def _images(raw: Path) -> Mapping[str, CaseFiles]:
    from segflow.storage.raw_dataset import find_training_cases, read_description

    return {case.case_id: case for case in find_training_cases(raw, read_description(raw))}
