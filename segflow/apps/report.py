"""``segflow report``: a trained run → one page with its scores, curves and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _datasets, _edge, _terminal
from segflow.core.case import CaseFiles
from segflow.core.errors import SegflowError
from segflow.evaluation.summary import read_scores_of, table_rows
from segflow.reporting.write_report import Table, write_report
from segflow.selection.crossval import accumulate_crossval
from segflow.storage.find_folds import find_folds
from segflow.storage.raw_dataset import find_training_cases, read_description, resolve_dataset
from segflow.storage.stamps import StampedFolder

PAGE = "report.html"


def run(config: DictConfig) -> None:
    """Write the page, and say where it lies."""
    if not config.run:
        raise SegflowError("run= is missing", fix="Use: segflow report run=RUN_FOLDER")
    folder = Path(config.run).expanduser()
    page = Path(config.output).expanduser() if config.output else folder / PAGE
    if config.output:  # in a run's folder nobody but segflow writes
        StampedFolder(page.parent).refuse_foreign({page.name: [page]})
    write(folder, page, _edge.read(_datasets.PathSettings, config.paths), channel=config.channel)
    _terminal.say(f"Written to {page}.")


def write(
    folder: Path,
    page: Path,
    paths: _datasets.PathSettings,
    *,
    raw: Path | None = None,
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
    channel: int = 0,
) -> None:
    """Open the reporting door on a run.

    Args:
        folder: The run's folder, whose folds are reported together; or one fold's.
        page: The file to write.
        paths: Where reference label maps and images lie.
        raw: The raw dataset; None for that of its name.
        tables: What to show above the scores.
        notes: Sentences to show under the title.
        channel: Which of the images' channels is shown.
    """
    folds = find_folds(folder)
    record = folds[0].read_record()
    if folds[0].path == folder:
        summary = read_scores_of(folds[0].validation, record.dataset.file_ending)
    else:
        reference = _datasets.reference_folder(record.dataset.name, paths)
        with _terminal.progress() as progress:
            crossval = accumulate_crossval(folder, reference, progress=progress)
        summary, notes = crossval.summary, (*notes, *(note for note in crossval.notes if note not in notes))
    try:
        images = _images(raw or resolve_dataset(record.dataset.name, Path(paths.raw).expanduser()))
    except SegflowError as error:
        images, notes = {}, (*notes, f"There are no pictures of cases: {error}")
    scores = Table("Scores", table_rows(summary, record.dataset.labels))
    write_report(page, folds, summary, tables=(*tables, scores), images=images, notes=notes, channel=channel)


def _images(raw: Path) -> Mapping[str, CaseFiles]:
    return {case.case_id: case for case in find_training_cases(raw, read_description(raw))}
