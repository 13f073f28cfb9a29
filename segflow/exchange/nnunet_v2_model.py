"""Models of nnU-Net v2, folder or zip, to runs of ours and back (recipe 9.4, 14.1).

What is read from such a model, and how safely, stands in ``models/nnunet_model.py``: prediction reads it too.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from segflow.core.errors import SegflowError
from segflow.core.system_errors import hidden_error, system_error
from segflow.models.nnunet_model import CHECKPOINTS, previous_model, read_nnunet_model
from segflow.models.nnunet_names import to_nnunet
from segflow.models.own_runs import read_fold, run_path, write_runs
from segflow.models.trained_fold import Folds, TrainedFold, choose_folds
from segflow.storage.folds import Fold, find_folds
from segflow.storage.json_files import write_json, written_whole

logger = logging.getLogger(__name__)

TRAINER = "nnUNetTrainer"
"""The class that nnU-Net looks up to build the network; every network of ours is one that it builds."""


def import_nnunet_model(
    path: Path,
    outputs: Path,
    *,
    folds: Folds = "all",
    checkpoint: str = "final",
    configuration: str | None = None,
    run_name: str = "imported",
) -> Path:
    """Make runs of ours from a model of nnU-Net v2; for a cascade the previous stage comes along where it is there.

    Args:
        path: Its folder, a folder above it, or nnU-Net's export as a zip.
        outputs: Where runs lie.
        folds: ``all``, or a list.
        checkpoint: ``final``, ``best`` or ``last``.
        configuration: Which model, where there are several.
        run_name: Name of the run.

    Returns:
        The run's folder, ``<outputs>/<dataset>/<plans>/<configuration>/<run_name>``, to predict with.

    Raises:
        SegflowError: The model cannot be read, or the run exists.
    """
    trained = read_nnunet_model(path, folds, checkpoint, configuration)
    record = trained[0].record
    models = [trained]
    previous = record.plan.previous_stage
    if previous and not run_path(outputs, record, run_name, previous).exists():
        place = previous_model(path, previous)
        try:
            models.append(read_nnunet_model(place, folds, checkpoint, previous))
        except SegflowError as error:
            logger.warning("the previous stage '%s' was not imported: %s", previous, error)
    return write_runs(outputs, models, run_name)[0]


def export_nnunet_model(run: Path, target: Path, *, folds: Folds = "all", checkpoint: str = "final") -> Path:
    """Write a run of ours as a model of nnU-Net v2, which its own predictor loads.

    Args:
        run: A run's folder, or one of its folds.
        target: A folder such as nnUNet_results, or a name that ends in ``.zip``, for nnU-Net's own import.
        folds: ``all``, or a list.
        checkpoint: ``final``, ``best`` or ``last``.

    Returns:
        The model's folder ``<target>/<dataset>/nnUNetTrainer__<plans>__<configuration>``, or the zip.

    Raises:
        SegflowError: The run cannot be read, or the target exists or cannot be written.
    """
    by_name = {folder.fold: folder for folder in find_folds(run)}
    names = choose_folds(list(by_name), folds, str(run))
    trained = [(by_name[name], read_fold(by_name[name], checkpoint)) for name in names]
    record = trained[0][1].record
    relative = Path(record.dataset.name) / f"{TRAINER}__{record.plans.plans_name}__{record.configuration}"
    zipped = target.suffix.lower() == ".zip"
    place = target if zipped else target / relative
    if place.exists():
        raise SegflowError(f"{place} exists already", fix="Remove it, or choose another target.")
    home = target.parent if zipped else target  # what lies above a folder may be another disk, or not be ours
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=home) as temporary:
            model = Path(temporary) / relative
            write_json(model / "plans.json", record.plans.to_json())
            write_json(model / "dataset.json", record.dataset.to_json())
            for folder, fold in trained:
                _write_fold(model / f"fold_{fold.record.fold}", folder, fold)
            if zipped:
                _zip(Path(temporary), target)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                model.rename(place)
    except OSError as error:
        raise system_error(error, f"cannot write {place}", place=home) from error
    except RuntimeError as error:  # of torch.save, which does not say more
        raise SegflowError(f"cannot write {place}: {error}") from error
    return place


def _write_fold(place: Path, folder: Fold, fold: TrainedFold) -> None:
    place.mkdir(parents=True)
    try:
        torch.save(_checkpoint(fold), place / CHECKPOINTS["final"])
    except RuntimeError as error:  # on a full disk it does not say so
        raise hidden_error(place) or error from None
    for file in (folder.progress_png, folder.validation / "summary.json"):
        if file.is_file():
            inside = place / file.relative_to(folder.path)
            inside.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, inside)


def _checkpoint(fold: TrainedFold) -> dict[str, Any]:
    """nnU-Net's own dictionary (recipe 9.4): whole enough to predict and to fine-tune, not to go on with."""
    record = fold.record
    return {
        "network_weights": to_nnunet(fold.weights, record.plan.topology),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": 0,
        "init_args": {
            "plans": record.plans.to_json(),
            "configuration": record.configuration,
            "fold": record.fold,
            "dataset_json": record.dataset.to_json(),
            "device": torch.device("cpu"),
        },
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": tuple(record.mirror_axes) or None,
    }


def _zip(folder: Path, target: Path) -> None:
    with written_whole(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
