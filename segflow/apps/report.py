"""``segflow report``: a trained run → one page with its scores, curves and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _next, _terminal
from segflow.apps._records import Command, PathSettings, needed, within_memory
from segflow.core.errors import SegflowError

if TYPE_CHECKING:
    from segflow.core.case import CaseFiles
    from segflow.reporting.write_report import Table


PAGE = "report.html"


@dataclass(kw_only=True)
class Report(Command):
    """Settings of ``segflow report``.

    Attributes:
        run: Folder of a run or a fold.
        output: The page to write; null takes report.html in the run folder.
        channel: Channel of the images to show.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("output", "run")

    run: Path | None = None
    output: Path | None = None
    channel: int = 0


@within_memory
def run(settings: Report) -> None:
    """Write the page, and print its path."""
    folder = needed(settings.run, "run", "Use: segflow report run=RUN_FOLDER")
    page = settings.output or folder / PAGE
    from segflow.storage.stamps import StampedFolder

    if settings.output:  # only segflow writes into a run's folder
        StampedFolder(page.parent).refuse_foreign({page.name: [page]})
    write(folder, page, settings.paths, channel=settings.channel)
    _terminal.say(f"Written to {page}.")
    _next.say(_next.after_report(folder, settings.paths))


def write(
    folder: Path,
    page: Path,
    paths: PathSettings,
    *,
    raw: Path | None = None,
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
    channel: int = 0,
) -> None:
    """Write the page of a run.

    Args:
        folder: Folder of a run, whose folds are reported together, or of a fold.
        page: The file to write.
        paths: Folders with the reference label maps and images.
        raw: The raw dataset; None finds it by its name.
        tables: Tables to show above the scores.
        notes: Sentences to show under the title.
        channel: Channel of the images to show.
    """
    from segflow.storage.find_folds import find_folds

    folds = find_folds(folder)
    record = folds[0].read_record()
    from segflow.evaluation.summary import read_scores_of, table_rows  # slow; a missing run is reported before
    from segflow.reporting.write_report import Table, write_report
    from segflow.selection.crossval import accumulate_crossval
    from segflow.storage.raw_dataset import resolve_dataset

    if folds[0].path == folder:
        summary = read_scores_of(folds[0].validation, record.dataset.label_ending)
    else:
        reference = paths.references(record.dataset.name)
        with _terminal.progress() as progress:
            crossval = accumulate_crossval(folder, reference, progress=progress)
        summary, notes = crossval.summary, (*notes, *(note for note in crossval.notes if note not in notes))
    try:
        images = _images(raw or resolve_dataset(record.dataset.name, paths.raw))
    except SegflowError as error:
        images, notes = {}, (*notes, f"There are no pictures of cases: {error}")
    scores = Table("Scores", table_rows(summary, record.dataset.labels))
    write_report(page, folds, summary, tables=(*tables, scores), images=images, notes=notes, channel=channel)


def _images(raw: Path) -> Mapping[str, CaseFiles]:
    from segflow.storage.raw_dataset import find_training_cases, read_description

    return {case.case_id: case for case in find_training_cases(raw, read_description(raw))}
