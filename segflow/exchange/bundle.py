"""Runs of ours as one file to give away, and such files as runs (the file: ``models/bundle_file.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segflow.core.errors import SegflowError
from segflow.models.bundle_file import configurations_in, read_bundle, write_bundle
from segflow.models.own_runs import previous_run, read_run, run_path, write_runs
from segflow.models.trained_fold import Folds


def export_bundle(
    runs: Path | Sequence[Path],
    target: Path,
    *,
    folds: Folds = "all",
    checkpoint: str = "final",
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write runs as a bundle, which `Predictor.load` takes as it is.

    Args:
        runs: Folders of runs or folds of different configurations. A cascade brings the stage that it builds on.
        target: The file, such as ``liver.segflow``.
        folds: ``all``, or names.
        checkpoint: ``final``, ``best`` or ``last``.
        facts: Plain JSON to keep with the models, such as licence and authors.

    Returns:
        The file.

    Raises:
        SegflowError: A run cannot be read, or the file exists or cannot be written.
    """
    if target.exists():
        raise SegflowError(f"{target} exists already", fix="Remove it, or choose another name.")
    trained, seen = [], set()
    waiting = [runs] if isinstance(runs, Path) else list(runs)
    while waiting:
        run = waiting.pop(0)
        members = read_run(run, folds, checkpoint)
        record = members[0].record
        if record.configuration in seen:
            continue
        seen.add(record.configuration)
        trained += members
        if record.plan.previous_stage:
            waiting.append(previous_run(run, record))
    write_bundle(target, trained, {"segflow": version("segflow"), **(facts or {})})
    return target


def import_bundle(path: Path, outputs: Path, *, run_name: str = "imported") -> list[Path]:
    """Make runs of ours from a bundle.

    Args:
        path: The bundle.
        outputs: Where runs lie.
        run_name: Name of the runs.

    Returns:
        One folder per configuration, in the bundle's order.

    Raises:
        SegflowError: The bundle cannot be read, or a run exists.
    """
    models = [read_bundle(path, configuration=name) for name in configurations_in(path)]
    for model in models:
        if (place := run_path(outputs, model[0].record, run_name)).exists():
            raise SegflowError(f"there is a run {place} already", fix="Choose another run_name, or remove it.")
    return write_runs(outputs, models, run_name)
