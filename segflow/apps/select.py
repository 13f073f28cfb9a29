"""``segflow select``: trained runs → the configuration or ensemble to predict with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import _at_hand, _datasets, _next, _terminal
from segflow.apps._records import DatasetCommand, within_memory
from segflow.core.errors import SegflowError
from segflow.core.wording import some
from segflow.selection.select_settings import SelectSettings

if TYPE_CHECKING:
    from segflow.core.selection import Selection


@dataclass(kw_only=True)
class Select(DatasetCommand):
    """Settings of ``segflow select``.

    Attributes:
        runs: Folders of runs to compare; null takes all runs of the dataset.
        selection: Candidates and their comparison.
    """

    SECTION: ClassVar = "selection"
    PLACES: ClassVar[tuple[str, ...]] = ("paths.outputs", "dataset.source", "dataset.name", "dataset.path")

    runs: list[Path] | None = None
    selection: SelectSettings = field(default_factory=SelectSettings)


@within_memory
def run(settings: Select) -> None:
    """Rank, and print the table and the commands to predict with."""
    from segflow.storage.find_folds import find_folds

    paths, runs = settings.paths, settings.runs or []
    if runs and not _datasets.is_named(settings.dataset):
        name = find_folds(runs[0])[0].read_record().dataset.name
        _terminal.say(f"Dataset {name}, of {runs[0]}")
    else:
        name = _datasets.folder_name(_datasets.announce(settings, "select"), paths)
    output = paths.outputs / name
    from segflow.selection.select_configuration import SELECTION_FILE
    from segflow.storage.runs import Run, find_runs  # slow; missing settings are reported before

    if not runs:  # imported and interrupted runs have no scores to compare
        found = find_runs(output)
        runs = [run for run in found if Run(run).validated_folds()]
        if not runs:
            raise SegflowError(
                f"no run of {name} has scores of its validation cases",
                found=some([str(run.relative_to(output)) for run in found]),
                fix="Repeat its segflow train line with validation=true: what is trained stays, and is scored.",
            )
    selection = select(settings, runs, paths.references(name), output)
    show(selection)
    _terminal.say(f"Written to {output / SELECTION_FILE}. Predict with:")
    for command in selection.commands:
        _terminal.say(f"  {command}")
    images = _at_hand.test_images(settings.dataset, paths) if _datasets.is_named(settings.dataset) else None
    _next.say(_next.after_selection(selection.commands, name, images, paths))


def select(settings: Select, runs: Sequence[Path], reference: Path, output: Path) -> Selection:
    """Rank the runs and their ensembles."""
    from segflow.selection.select_configuration import select_configuration

    with _terminal.progress() as progress:
        return select_configuration(runs, reference, output, settings.selection, progress=progress)


def show(selection: Selection) -> None:
    """Print the ranking and its remarks."""
    from segflow.selection.table import selection_rows

    header, *rows = selection_rows(selection)
    _terminal.table(f"Cross-validation of {selection.dataset}, {_terminal.cases(len(selection.cases))}", header, rows)
    for note in selection.notes:
        _terminal.say(f"  {note}")
