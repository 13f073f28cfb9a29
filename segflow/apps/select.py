"""``segflow select``: trained runs → the configuration or ensemble to predict with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from segflow.apps import _datasets, _edge, _terminal
from segflow.core.selection import Selection
from segflow.selection.select_configuration import SELECTION_FILE, select_configuration
from segflow.selection.select_settings import SelectSettings
from segflow.selection.table import selection_rows
from segflow.storage.find_folds import find_folds
from segflow.storage.runs import find_runs


def run(config: DictConfig) -> None:
    """Rank, and print the table and the commands to predict with."""
    paths = _edge.read(_datasets.PathSettings, config.paths)
    dataset = _edge.read(_datasets.DatasetSettings, config.dataset)
    runs = [Path(run).expanduser() for run in _edge.several(config.runs or [])]
    if runs and not _datasets.is_named(dataset):
        name = find_folds(runs[0])[0].read_record().dataset.name
        _terminal.say(f"Dataset {name}, of {runs[0]}")
    else:
        name = _datasets.folder_name(_datasets.announce(config, "select"), paths)
    output = Path(paths.outputs).expanduser() / name
    if not runs:  # imported and interrupted runs have nothing to be compared by
        runs = [run for run in find_runs(output) if any(run.glob("fold_*/validation/summary.json"))]
    selection = select(config, runs, _datasets.reference_folder(name, paths), output)
    show(selection)
    _terminal.say(f"Written to {output / SELECTION_FILE}. Predict with:")
    for command in selection.commands:
        _terminal.say(f"  {command}")


def select(config: DictConfig, runs: Sequence[Path], reference: Path, output: Path) -> Selection:
    """Open the selection door with the settings of a composed configuration."""
    settings = _edge.read(SelectSettings, config.selection)
    with _terminal.progress() as progress:
        return select_configuration(runs, reference, output, settings, progress=progress)


def show(selection: Selection) -> None:
    """The ranking, and what a person should know about it."""
    header, *rows = selection_rows(selection)
    _terminal.table(f"Cross-validation of {selection.dataset}, {_terminal.cases(len(selection.cases))}", header, rows)
    for note in selection.notes:
        _terminal.say(f"  {note}")
