"""Models trained by nnU-Net v2, read without it and without running anything from them (recipe 9.4, 11.1, 14.1)."""

from __future__ import annotations

import _codecs
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.names import LONGEST_NAME, shortened
from segflow.core.plans import Plans
from segflow.core.run_record import RunRecord
from segflow.models.nnunet_names import from_nnunet
from segflow.models.tensor_files import plain_weights, read_tensors
from segflow.models.trained_fold import Folds, TrainedFold, choose_folds
from segflow.storage.json_files import build_as, parse_json, read_json
from segflow.storage.zip_files import is_zip, open_zip, read_member

CHECKPOINTS = {"final": "checkpoint_final.pth", "best": "checkpoint_best.pth", "last": "checkpoint_latest.pth"}
"""Our name of a checkpoint → nnU-Net's."""

DEPTH = 3
"""Folders below which a model may lie: results / dataset / model."""

_SCALAR = np.float64(0).__reduce__()[0]
_ARRAY = np.zeros(0).__reduce__()[0]

HARMLESS_GLOBALS: tuple[Any, ...] = (
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
    _codecs.encode,
    # Both names, as the file says which numpy wrote it and not which one reads it.
    *((_SCALAR, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    *((_ARRAY, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")),
)
"""What an honest checkpoint names beside tensors: the logged numbers are numpy scalars. None of it runs anything."""

Place = Path | zipfile.Path


def is_nnunet_model(path: Path) -> bool:
    """Whether a folder or zip holds a model of nnU-Net v2, as far as its file names tell."""
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
            export as a zip, which is read in place: nothing is unpacked to the disk.
        folds: ``all`` that have the checkpoint (of a fold's folder, this fold), or a list.
        checkpoint: ``final``, ``best`` or ``last``.
        configuration: Which model, where there are several. A cascade goes before the stage that it builds on.

    Returns:
        One entry per fold, in their order.

    Raises:
        SegflowError: There is no such model or fold, several models to choose from, a file cannot be read, would run
            code, or names layers that segflow does not build.
    """
    if checkpoint not in CHECKPOINTS:
        raise SegflowError(f"unknown checkpoint '{checkpoint}'", expected=" | ".join(CHECKPOINTS))
    place = _open(path)
    if folds == "all" and path.is_dir() and place != path:
        folds = [path.name.removeprefix("fold_")]
    found = list(_models(place))
    if not found:
        raise SegflowError(
            f"{path} holds no model of nnU-Net v2", expected="plans.json, dataset.json and fold_0/checkpoint_final.pth"
        )
    model = _choose(found, configuration, path)
    plans = build_as(model / "plans.json", _json(model / "plans.json"), Plans.from_json)
    dataset = build_as(
        model / "dataset.json",
        _dataset_json(model),
        partial(DatasetDescription.from_json, plans.dataset_name),
    )
    chosen = _folds(model, folds, CHECKPOINTS[checkpoint])
    return [_read_fold(model / f"fold_{fold}" / CHECKPOINTS[checkpoint], plans, dataset) for fold in chosen]


def read_nnunet_weights(file: Path) -> dict[str, Tensor]:
    """Weights of one checkpoint file by our names; it carries the plans that it was trained with.

    Raises:
        SegflowError: It cannot be read, would run code, is no checkpoint of nnU-Net v2, or names layers that segflow
            does not build.
    """
    content = read_tensors(file, str(file), HARMLESS_GLOBALS)
    if not isinstance(content.get("init_args"), Mapping) or "network_weights" not in content:
        raise _no_checkpoint(str(file), content)

    def build(content: Mapping[str, Any]) -> dict[str, Tensor]:
        arguments = content["init_args"]
        plan = Plans.from_json(arguments["plans"]).configuration(arguments["configuration"])
        return from_nnunet(plain_weights(content["network_weights"]), plan.topology)

    return build_as(file, content, build)


def previous_model(path: Path, configuration: str) -> Path:
    """Where the model of another configuration lies that shares trainer and plans with this one.

    Args:
        path: As given to `read_nnunet_model`; within a zip, or a folder of several models, it is the same path.
        configuration: Name of the previous stage.
    """
    model = path.parent if path.name.startswith("fold_") else path
    if path.is_file() or not (model / "plans.json").is_file():
        return path
    return model.with_name("__".join([*model.name.split("__")[:-1], configuration]))


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
    else:  # what another model builds on is not what is asked for
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
        return content.get("configurations", {}).get(configuration, {}).get("previous_stage")

    return build_as(model / "plans.json", _json(model / "plans.json"), find)


def _json(file: Place) -> dict[str, Any]:
    value = read_json(file) if isinstance(file, Path) else parse_json(file, read_member(file.root, file.at))
    if not isinstance(value, dict):
        raise SegflowError(f"{file} does not hold a JSON object", found=type(value).__name__)
    return value


def _dataset_json(model: Place) -> dict[str, Any]:
    """Old models lack a key that prediction does not need."""
    return {"numTraining": 0, "file_ending": ".nii.gz", **_json(model / "dataset.json")}


def _folds(model: Place, folds: Folds, file: str) -> list[str]:
    named = {child.name.removeprefix("fold_"): child for child in model.iterdir() if child.name.startswith("fold_")}
    return choose_folds([name for name, child in named.items() if (child / file).is_file()], folds, f"{model} ({file})")


def _read_fold(file: Place, plans: Plans, dataset: DatasetDescription) -> TrainedFold:
    name = str(file)
    source = file if isinstance(file, Path) else io.BytesIO(read_member(file.root, file.at))
    content = read_tensors(source, name, HARMLESS_GLOBALS)
    if not isinstance(content.get("init_args"), Mapping) or "network_weights" not in content:
        raise _no_checkpoint(name, content)

    def build(content: Mapping[str, Any]) -> TrainedFold:
        record = RunRecord(
            dataset=dataset,
            plans=plans,
            configuration=content["init_args"]["configuration"],
            fold=content["init_args"].get("fold", 0),
            train_cases=(),
            val_cases=(),
            mirror_axes=tuple(int(axis) for axis in content.get("inference_allowed_mirroring_axes") or ()),
            settings={"trainer": str(content.get("trainer_name", "nnUNetTrainer"))[:LONGEST_NAME]},
        )
        record.check()
        return TrainedFold(record, from_nnunet(plain_weights(content["network_weights"]), record.plan.topology), name)

    return build_as(name, content, build)


def _no_checkpoint(name: str, content: Mapping[str, Any]) -> SegflowError:
    return SegflowError(
        f"{name} is not a checkpoint of nnU-Net v2", found=shortened(list(content), 300), expected="network_weights"
    )
