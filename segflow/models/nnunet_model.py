"""Models of nnU-Net v2, read without nnU-Net and without running code from them (recipe 9.4, 11.1, 14.1)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.plans import Plans
from segflow.core.topology import NETWORKS
from segflow.models.nnunet_checkpoint import UNNEEDED, read_nnunet_checkpoint, write_nnunet_checkpoint
from segflow.models.trained_fold import Folds, TrainedFold, choose_folds
from segflow.storage.json_files import build_as, parse_json, read_json, write_json
from segflow.storage.zip_files import is_zip, open_zip, read_member

CHECKPOINTS = {"final": "checkpoint_final.pth", "best": "checkpoint_best.pth", "last": "checkpoint_latest.pth"}
"""Segflow's name of a checkpoint → nnU-Net's."""

DEPTH = 3
"""Levels of folders above a model: results / dataset / model."""

Place = Path | zipfile.Path


def is_nnunet_model(path: Path) -> bool:
    """Whether a folder or zip holds files with the names of an nnU-Net v2 model."""
    if path.is_dir():
        return any(True for _ in _models(_open(path)))
    if is_zip(path):
        with open_zip(path) as archive:
            return any(PurePosixPath(name).name == "plans.json" for name in archive.namelist())
    return False


def read_nnunet_model(
    path: Path, folds: Folds = "all", checkpoint: str = "final", configuration: str | None = None
) -> list[TrainedFold]:
    """Read the folds of a model.

    Args:
        path: The model's folder (``Trainer__Plans__Configuration``), one of its folds, a folder above it, or nnU-Net's
            export as a zip, which is read in place.
        folds: ``all`` folds that have the checkpoint, or a list. For a fold's folder, ``all`` is this fold.
        checkpoint: ``final``, ``best`` or ``last``.
        configuration: Configuration to take if there are several models. None prefers a cascade to its previous stage.

    Returns:
        One entry per fold, in their order.

    Raises:
        SegflowError: There is no such model or fold, several models to choose from, a file cannot be read, would run
            code, or names layers that segflow does not build.
    """
    model, chosen = _locate(path, folds, checkpoint, configuration)
    plans = build_as(model / "plans.json", _json(model / "plans.json"), Plans.from_json)
    dataset = build_as(
        model / "dataset.json",
        UNNEEDED | _json(model / "dataset.json"),
        partial(DatasetDescription.from_json, plans.dataset_name),
    )
    return [_read_fold(model / f"fold_{fold}" / CHECKPOINTS[checkpoint], plans, dataset) for fold in chosen]


def nnunet_folds(path: Path, checkpoint: str = "final", configuration: str | None = None) -> list[str]:
    """Names of the folds that `read_nnunet_model` reads for ``all``.

    Raises:
        SegflowError: As in `read_nnunet_model`, for errors that show in file names and plans.
    """
    return _locate(path, "all", checkpoint, configuration)[1]


def write_nnunet_model(model: Path, folds: Sequence[TrainedFold]) -> None:
    """Write folds of one configuration in the layout of an nnU-Net model.

    Args:
        model: The folder, which must not exist.
        folds: Weights and records.

    Raises:
        SegflowError: The disk is full, or nnU-Net has no such network.
        OSError, RuntimeError: A file cannot be written for another reason.
    """
    record = folds[0].record
    network = record.plan.topology.network
    if network not in NETWORKS:
        raise SegflowError(
            f"nnU-Net cannot build the network '{network}' of {folds[0].source}",
            expected=" or ".join(NETWORKS),
            fix="Give the model as a bundle (format=segflow), or for any runtime (format=onnx).",
        )
    write_json(model / "plans.json", record.plans.to_json())
    write_json(model / "dataset.json", record.dataset.for_nnunet())
    for fold in folds:
        place = model / f"fold_{fold.record.fold}"
        place.mkdir(parents=True)
        write_nnunet_checkpoint(place / CHECKPOINTS["final"], fold)


def previous_model(path: Path, configuration: str) -> Path:
    """Path of the model of another configuration with the same trainer and plans.

    Args:
        path: Path as given to `read_nnunet_model`. For a zip or a folder of several models the result is the same path.
        configuration: Name of the previous stage.
    """
    model = path.parent if path.name.startswith("fold_") else path
    if path.is_file() or not (model / "plans.json").is_file():
        return path
    return model.with_name("__".join([*model.name.split("__")[:-1], configuration]))


def _locate(path: Path, folds: Folds, checkpoint: str, configuration: str | None) -> tuple[Place, list[str]]:
    """The chosen model, and the names of its chosen folds."""
    if checkpoint not in CHECKPOINTS:
        raise SegflowError(f"unknown checkpoint '{checkpoint}'", expected=" | ".join(CHECKPOINTS))
    place = _open(path)
    if folds == "all" and path.is_dir() and place != path:
        folds = [path.name.removeprefix("fold_")]
    found = list(_models(place))
    if not found:
        raise no_nnunet_model(path)
    model = _choose(found, configuration, path)
    return model, _folds(model, folds, CHECKPOINTS[checkpoint])


def no_nnunet_model(path: Path) -> SegflowError:
    """The error for a path that is not a model."""
    return SegflowError(
        f"{path} holds no model of nnU-Net v2", expected="plans.json, dataset.json and fold_0/checkpoint_final.pth"
    )


def _open(path: Path) -> Place:
    if path.is_dir():
        if path.name.startswith("fold_") and (path.parent / "plans.json").is_file():
            return path.parent
        return path
    if not path.exists():
        raise SegflowError(f"there is no {path}", expected="a model folder or zip of nnU-Net v2")
    return zipfile.Path(open_zip(path))


def _models(place: Place, depth: int = DEPTH) -> Iterator[Place]:
    if (place / "plans.json").is_file() and (place / "dataset.json").is_file():
        if any(_pth_files(child) for child in place.iterdir() if child.name.startswith("fold_")):
            yield place
        return
    if depth:
        children: list[Place] = sorted(place.iterdir(), key=lambda child: child.name)
        for child in children:
            if child.is_dir():
                yield from _models(child, depth - 1)


def _pth_files(fold: Place) -> list[str]:
    return [child.name for child in fold.iterdir() if child.name in CHECKPOINTS.values()] if fold.is_dir() else []


def _choose(models: Sequence[Place], configuration: str | None, path: Path) -> Place:
    named = [(model.name.split("__")[-1], model) for model in models]
    if configuration is not None:
        named = [(name, model) for name, model in named if name == configuration]
        if not named:
            raise SegflowError(
                f"{path} holds no model of configuration '{configuration}'",
                found=", ".join(model.name for model in models),
            )
    else:  # without the previous stages of other models
        needed = {_previous_stage(name, model) for name, model in named}
        named = [(name, model) for name, model in named if name not in needed]
    if len(named) != 1:
        raise SegflowError(
            f"{path} holds several models",
            found=", ".join(model.name for model in models),
            fix="Give the folder of one of them, or name its configuration.",
        )
    return named[0][1]


def _previous_stage(configuration: str, model: Place) -> str | None:
    def find(content: dict[str, Any]) -> str | None:
        previous: str | None = content.get("configurations", {}).get(configuration, {}).get("previous_stage")
        return previous

    return build_as(model / "plans.json", _json(model / "plans.json"), find)


def _json(file: Place) -> dict[str, Any]:
    value = read_json(file) if isinstance(file, Path) else parse_json(file, read_member(file.root, file.at))
    if not isinstance(value, dict):
        raise SegflowError(f"{file} does not hold a JSON object", found=type(value).__name__)
    return value


def _folds(model: Place, folds: Folds, file: str) -> list[str]:
    named = {child.name.removeprefix("fold_"): child for child in model.iterdir() if child.name.startswith("fold_")}
    return choose_folds([name for name, child in named.items() if (child / file).is_file()], folds, f"{model} ({file})")


def _read_fold(file: Place, plans: Plans, dataset: DatasetDescription) -> TrainedFold:
    if isinstance(file, Path):
        return replace(read_nnunet_checkpoint(file, str(file), plans, dataset), folder=file.parent)
    return read_nnunet_checkpoint(io.BytesIO(read_member(file.root, file.at)), str(file), plans, dataset)
