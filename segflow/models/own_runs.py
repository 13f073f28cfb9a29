"""Reading and writing of runs: the weights and records in their folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segflow.core.errors import SegflowError
from segflow.core.names import safe_name, shortened
from segflow.core.run_record import RunRecord
from segflow.models.tensor_files import plain_weights, read_tensors, without_wrappers
from segflow.models.trained_fold import Folds, TrainedFold, choose_folds
from segflow.storage.find_folds import find_folds
from segflow.storage.folds import RAW, Fold
from segflow.storage.json_files import written_whole
from segflow.storage.runs import Run
from segflow.storage.whole_folder import folder_written_whole

NETWORK_PREFIX = "network."
"""Prefix of the network's weights in a checkpoint: the attribute's name in the Lightning module."""

RAW_WEIGHTS = "raw_weights"
"""Where a checkpoint whose weights are an average keeps those that the optimizer goes on from, by the same names."""


def read_fold(folder: Fold, checkpoint: str = "final") -> TrainedFold:
    """Read weights and record of a fold.

    Args:
        folder: The fold's folder.
        checkpoint: ``final``, ``best`` or ``last``; ``raw`` is the weights of ``final`` before they were averaged.

    Raises:
        SegflowError: The fold was not trained, its checkpoint cannot be read, or it holds no average.
    """
    record = folder.read_record()
    file = folder.existing_checkpoint(checkpoint)
    content = read_tensors(file)
    if checkpoint == RAW:
        content = _before_averaging(content, file)
    return TrainedFold(record, network_weights(content, str(file)), str(file), folder.path)


def _before_averaging(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    raw, state = content.get(RAW_WEIGHTS), content.get("state_dict")
    if not isinstance(raw, Mapping) or not isinstance(state, Mapping):
        raise SegflowError(
            f"{file} holds no raw weights, since they were not averaged",
            found="checkpoint=raw",
            fix="Its weights are those of the training: leave checkpoint= out.",
        )
    return {"state_dict": {**state, **raw}}


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint file of segflow, in any place.

    Raises:
        SegflowError: It cannot be read, or holds no network of segflow.
    """
    content = read_tensors(file)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping) or not any(str(key).startswith(NETWORK_PREFIX) for key in state):
        raise SegflowError(
            f"{file} holds no weights of a segflow network",
            found=shortened(list(content)[:5]),
            expected=f"tensors named '{NETWORK_PREFIX}…'",
        )
    return network_weights(content, str(file))


def network_weights(content: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The weights of the network in a checkpoint of segflow.

    Args:
        content: Content of the file.
        name: Its name in messages.

    Raises:
        SegflowError: It holds no plain tensors.
    """
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise SegflowError(f"{name} holds no weights", found=type(state).__name__, expected="tensors by name")
    named = {key: value for key, value in state.items() if isinstance(value, Tensor) and isinstance(key, str)}
    own = {key.removeprefix(NETWORK_PREFIX): value for key, value in named.items() if key.startswith(NETWORK_PREFIX)}
    return without_wrappers(plain_weights(own or named, name))


def read_run(path: Path, folds: Folds = "all", checkpoint: str = "final") -> list[TrainedFold]:
    """Read weights and records of a run.

    Args:
        path: A fold, or the run's folder above it.
        folds: See `choose_folds`.
        checkpoint: ``final``, ``best`` or ``last``.

    Raises:
        SegflowError: A fold was not trained, or its checkpoint cannot be read.
    """
    by_name = {folder.fold: folder for folder in find_folds(path)}
    return [read_fold(by_name[name], checkpoint) for name in choose_folds(list(by_name), folds, str(path))]


def previous_run(path: Path, record: RunRecord) -> Path:
    """The run of a cascade's previous stage, with the same plans.

    Its name is the ``previous_run_name`` of the cascade's training, else the cascade's own run name. If neither exists,
    as with renamed runs, a single run is taken.

    Args:
        path: The cascade's run, or a fold of it.
        record: Record of the cascade.

    Raises:
        SegflowError: It cannot be found. The error says how to name it.
    """
    path = path.resolve()
    run = Run.of(path)
    home = run.runs_of(str(record.plan.previous_stage))
    named = record.settings.get("previous_run_name")
    if named:
        safe_name(named, "the previous_run_name of the run's settings")
    if (place := home / str(named or run.name)).is_dir():
        return place
    others = sorted(child for child in home.iterdir() if child.is_dir()) if home.is_dir() else []
    if len(others) == 1 and not named:
        return others[0]
    raise SegflowError(
        f"configuration '{record.configuration}' needs the model of '{record.plan.previous_stage}'",
        found=", ".join(str(other) for other in others) or f"no run in {home}",
        fix=f"Train it, or say where it is: previous_stage={home}/RUN_NAME",
    )


def run_path(outputs: Path, record: RunRecord, run_name: str, configuration: str | None = None) -> Path:
    """Folder of a run of this name, or of another configuration of the same plans."""
    plans = outputs / record.dataset.name / record.plans.plans_name
    return Run.at(plans, configuration or record.configuration, run_name).path


def write_runs(outputs: Path, models: Iterable[Sequence[TrainedFold]], run_name: str) -> list[Path]:
    """Write several models with `write_run`: all or none, since a part would block the next try.

    Returns:
        The runs' folders.

    Raises:
        SegflowError: A run exists, or cannot be written.
    """
    written: list[Path] = []
    try:
        for folds in models:
            written.append(write_run(outputs, folds, run_name))
    except BaseException:
        for run in written:
            shutil.rmtree(run, ignore_errors=True)
        raise
    return written


def write_run(outputs: Path, folds: Sequence[TrainedFold], run_name: str) -> Path:
    """Write folds of one configuration as a finished run, as a whole or not at all.

    Returns:
        The run's folder.

    Raises:
        SegflowError: The run exists, or cannot be written.
    """
    run = run_path(outputs, folds[0].record, run_name)
    exists = SegflowError(f"there is a run {run} already", fix="Choose another run_name, or remove it.")
    if run.exists():
        raise exists
    try:
        with folder_written_whole(run) as partial:
            for fold in folds:
                folder = Run(partial).fold(fold.record.fold)
                state = {NETWORK_PREFIX + name: value for name, value in fold.weights.items()}
                needed = sum(value.nbytes for value in state.values())
                with written_whole(folder.checkpoint("final"), needed=needed) as temporary:
                    torch.save({"state_dict": state}, temporary)
                folder.write_record(fold.record)
                folder.mark_finished({"imported_from": fold.source})
    except FileExistsError:
        raise exists from None
    return run
