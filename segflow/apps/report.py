"""``segflow report``: a page about a trained run, one that compares several, or one about a raw dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from segflow.apps import _datasets, _next, _terminal
from segflow.apps._records import DatasetCommand, DatasetSettings, needed, within_memory
from segflow.core.errors import SegflowError

PAGE = "report.html"
COMPARISON = "comparison.html"


@dataclass(kw_only=True)
class Report(DatasetCommand):
    """Settings of ``segflow report``, which shows ``run``, or the raw data of ``dataset`` before anything is trained.

    Attributes:
        run: Folder of a run or a fold, or several to compare: ``run=A,B,C``. The others are compared with the first.
        output: The page to write; null takes report.html in the run folder, comparison.html in the first one's, or
            raw_data.html in the dataset's folder in ``paths.outputs``.
        channel: Channel of the images to show first.
        all_scores: Compute HD95, surface Dice and the other scores of ``segflow evaluate`` for the validation cases,
            once; false shows those that the validation stored.
        processes: Cases of a raw dataset at once; null uses all processors, 0 works in this process.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("output", "run")

    run: list[Path] | None = None
    dataset: DatasetSettings = field(default_factory=lambda: DatasetSettings(name=_datasets.PHANTOM, source="phantom"))
    output: Path | None = None
    channel: int = 0
    all_scores: bool = True
    processes: int | None = None


@within_memory
def run(settings: Report) -> None:
    """Write the page, and print its path."""
    if settings.output:  # only segflow writes into a folder of its own
        from segflow.storage.stamps import StampedFolder

        StampedFolder(settings.output.parent).refuse_foreign({settings.output.name: [settings.output]})
    if settings.run is not None and _datasets.is_named(settings.dataset):
        raise SegflowError("run= and dataset= ask for two pages", fix="Leave one of them out.")
    if settings.run is None and _datasets.is_named(settings.dataset):
        _of_dataset(settings)
    else:
        _of_runs(settings)


def _of_dataset(settings: Report) -> None:
    from segflow.apps import _dataset_page

    dataset = _datasets.announce(settings, "report")
    page, errors = _dataset_page.write(
        dataset, settings.output, settings.paths, channel=settings.channel, processes=settings.processes
    )
    _terminal.say(f"Written to {page}.")
    if not errors:
        _next.say(_next.after_doctor(settings))


def _of_runs(settings: Report) -> None:
    folders = needed(settings.run, "run", "Use: segflow report run=RUN_FOLDER, or dataset=DATASET for raw data")
    one = len(folders) == 1
    page = settings.output or folders[0] / (PAGE if one else COMPARISON)
    from segflow.storage.find_folds import find_folds

    for folder in folders:  # a missing run is reported before what is slow
        find_folds(folder)[0].read_record()
    from segflow.apps import _run_page

    options = _run_page.Options(settings.paths, settings.channel, settings.all_scores)
    if one:
        _run_page.write(folders[0], page, options)
    else:
        _run_page.compare(folders, page, options)
    _terminal.say(f"Written to {page}.")
    if one:
        _next.say(_next.after_report(folders[0], settings.paths))
