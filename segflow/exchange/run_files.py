"""Weights that came from elsewhere, written as a run of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from segflow.core.errors import SegflowError
from segflow.core.run import RunRecord
from segflow.network.weights import NETWORK_PREFIX, TrainedFold
from segflow.storage.json_files import written_whole
from segflow.storage.run_folder import RunFolder


def run_path(outputs: Path, record: RunRecord, run_name: str, configuration: str | None = None) -> Path:
    """Where a run of this name belongs, or that of another configuration of the same plans."""
    return outputs / record.dataset.name / record.plans.plans_name / (configuration or record.configuration) / run_name


def write_run(outputs: Path, folds: Sequence[TrainedFold], run_name: str) -> Path:
    """Write folds of one configuration as a finished run, to predict with or to fine-tune from.

    Returns:
        The run's folder.

    Raises:
        SegflowError: The run exists, or cannot be written.
    """
    run = run_path(outputs, folds[0].record, run_name)
    if run.exists():
        raise SegflowError(f"there is a run {run} already", fix="Choose another run_name, or remove it.")
    for fold in folds:
        folder = RunFolder(run / f"fold_{fold.record.fold}")
        state = {NETWORK_PREFIX + name: value for name, value in fold.weights.items()}
        with written_whole(folder.checkpoint("final")) as temporary:
            torch.save({"state_dict": state}, temporary)
        folder.write_record(fold.record)
        folder.mark_finished({"imported_from": fold.source})
    return run
