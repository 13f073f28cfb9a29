"""``segflow report``: trained runs → one page with scores, curves and pictures, or a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from segflow.apps import _next, _terminal
from segflow.apps._records import Command, needed, within_memory

PAGE = "report.html"
COMPARISON = "comparison.html"


@dataclass(kw_only=True)
class Report(Command):
    """Settings of ``segflow report``.

    Attributes:
        run: Folder of a run or a fold, or several to compare: ``run=A,B,C``. The others are compared with the first.
        output: The page to write; null takes report.html in the run folder, or comparison.html in the first one's.
        channel: Channel of the images to show.
        all_scores: Compute HD95, surface Dice and the other scores of ``segflow evaluate`` for the validation cases,
            once; false shows those that the validation stored.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("output", "run")

    run: list[Path] | None = None
    output: Path | None = None
    channel: int = 0
    all_scores: bool = True


@within_memory
def run(settings: Report) -> None:
    """Write the page, and print its path."""
    folders = needed(settings.run, "run", "Use: segflow report run=RUN_FOLDER")
    one = len(folders) == 1
    page = settings.output or folders[0] / (PAGE if one else COMPARISON)
    from segflow.storage.find_folds import find_folds
    from segflow.storage.stamps import StampedFolder

    if settings.output:  # only segflow writes into a run's folder
        StampedFolder(page.parent).refuse_foreign({page.name: [page]})
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
