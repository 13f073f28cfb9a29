"""Weights that came from elsewhere, written as a run of ours."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.network.weights import NETWORK_PREFIX, TrainedFold
from segflow.storage.folds import Fold
from segflow.storage.json_files import written_whole
from segflow.storage.whole_folder import folder_written_whole


def run_path(outputs: Path, record: RunRecord, run_name: str, configuration: str | None = None) -> Path:
    """Where a run of this name belongs, or that of another configuration of the same plans."""
    return outputs / record.dataset.name / record.plans.plans_name / (configuration or record.configuration) / run_name


def write_runs(outputs: Path, models: Iterable[Sequence[TrainedFold]], run_name: str) -> list[Path]:
    """Write several models as `write_run` does, all of them or none: half of them would be in the next try's way.

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
    """Write folds of one configuration as a finished run, to predict with or to fine-tune from: whole or not at all.

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
                folder = Fold(partial / f"fold_{fold.record.fold}")
                state = {NETWORK_PREFIX + name: value for name, value in fold.weights.items()}
                needed = sum(value.nbytes for value in state.values())
                with written_whole(folder.checkpoint("final"), needed=needed) as temporary:
                    torch.save({"state_dict": state}, temporary)
                folder.write_record(fold.record)
                folder.mark_finished({"imported_from": fold.source})
    except FileExistsError:
        raise exists from None
    return run
