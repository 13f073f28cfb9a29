"""The few values by which people compare runs, for the tables of experiment loggers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytorch_lightning as pl

from segflow.training.training_job import TrainingJob

PARTS = ("network", "loss", "optimizer", "schedule", "sampling", "augmentation")

Plain = str | int | float


def hyper_parameters(job: TrainingJob, trainer: pl.Trainer) -> dict[str, Plain]:
    """The values of a run: what was chosen for it, what planning decided, and where it is trained.

    Returns:
        Name → value. Settings have the names of the command line, such as ``optimizer.lr``; a part that was not chosen
        by name, such as a loss, is named by its class.
    """
    record, settings = job.record, job.record.settings
    values: dict[str, Any] = {
        "dataset": record.dataset.name,
        "plans": record.plans.plans_name,
        "configuration": record.configuration,
        "fold": str(record.fold),
        "batch_size": record.plan.batch_size,
        "patch_size": record.plan.patch_size,
        "trainer.max_epochs": trainer.max_epochs,
        "trainer.limit_train_batches": int(trainer.limit_train_batches),
        "training.seed": job.settings.seed,
        "device": trainer.strategy.root_device.type,
        "precision": str(trainer.precision),
        "segflow": _version(),
    }
    values |= {name: _class_of(settings[name]) for name in PARTS if name in settings}
    optimizer = settings.get("optimizer")
    if isinstance(optimizer, Mapping):
        values |= {f"optimizer.{key}": value for key, value in optimizer.items() if not str(key).startswith("_")}
    return {name: _plain(value) for name, value in (values | dict(job.parts.chosen)).items() if value is not None}


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Plain]:
    """Settings under their dotted names. Those that are null are left out."""
    found: dict[str, Plain] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = _plain(value)
    return found


def _class_of(part: Any) -> str | None:
    return str(part["_target_"]).rpartition(".")[2] if isinstance(part, Mapping) and "_target_" in part else None


def _plain(value: Any) -> Plain:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return value
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _version() -> str | None:
    try:
        return version("segflow")
    except PackageNotFoundError:  # run from its source folder
        return None
