"""Reading and writing of nnU-Net v2's checkpoint files, without nnU-Net (recipe 9.4, 14.1)."""

from __future__ import annotations

import _codecs
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.names import LONGEST_NAME, shortened
from segflow.core.plans import Plans
from segflow.core.run_record import RunRecord
from segflow.core.system_errors import hidden_error
from segflow.models.nnunet_names import from_nnunet, to_nnunet
from segflow.models.tensor_files import plain_weights, read_tensors
from segflow.models.trained_fold import TrainedFold
from segflow.storage.json_files import build_as

TRAINER = "nnUNetTrainer"
"""The class with which nnU-Net builds the network; it can build every network of segflow."""

UNNEEDED = {"numTraining": 0, "file_ending": ".nii.gz"}
"""Keys of a dataset.json that old models lack and prediction does not need."""

_SCALAR = np.float64(0).__reduce__()[0]
_ARRAY = np.zeros(0).__reduce__()[0]

HARMLESS_GLOBALS: tuple[Any, ...] = (
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
    _codecs.encode,
    # Both names are allowed, since a file has the name of the numpy version that wrote it.
    *((_SCALAR, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    *((_ARRAY, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")),
)
"""Globals of a normal checkpoint beside tensors, since logged numbers are numpy scalars. None of them runs code."""


def read_nnunet_checkpoint(
    file: Path | IO[bytes],
    name: str,
    plans: Plans | None = None,
    dataset: DatasetDescription | None = None,
) -> TrainedFold:
    """Read the weights of one fold, and the record that belongs to them.

    Args:
        file: A path, or an open binary file.
        name: Its name in messages.
        plans: The plans beside the checkpoint; None takes those in it.
        dataset: The description beside the checkpoint; None takes the one in it.

    Raises:
        SegflowError: It cannot be read, would run code, is not a checkpoint of nnU-Net v2, or names layers that segflow
            does not build.
    """

    def build(content: Mapping[str, Any]) -> TrainedFold:
        arguments = content["init_args"]
        chosen = Plans.from_json(arguments["plans"]) if plans is None else plans
        record = RunRecord(
            dataset=dataset or DatasetDescription.from_json(chosen.dataset_name, UNNEEDED | arguments["dataset_json"]),
            plans=chosen,
            configuration=arguments["configuration"],
            fold=arguments.get("fold", 0),
            train_cases=(),
            val_cases=(),
            mirror_axes=tuple(int(axis) for axis in content.get("inference_allowed_mirroring_axes") or ()),
            settings={"trainer": str(content.get("trainer_name", TRAINER))[:LONGEST_NAME]},
        )
        record.check()
        return TrainedFold(record, from_nnunet(plain_weights(content["network_weights"]), record.plan.topology), name)

    return build_as(name, _read(file, name), build)


def read_nnunet_weights(file: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint file under segflow's names. The file must hold its plans.

    Raises:
        SegflowError: It cannot be read, would run code, is not a checkpoint of nnU-Net v2, or names layers that segflow
            does not build.
    """

    def build(content: Mapping[str, Any]) -> dict[str, Tensor]:
        arguments = content["init_args"]
        plan = Plans.from_json(arguments["plans"]).configuration(arguments["configuration"])
        return from_nnunet(plain_weights(content["network_weights"]), plan.topology)

    return build_as(file, _read(file, str(file)), build)


def write_nnunet_checkpoint(file: Path, fold: TrainedFold) -> None:
    """Write weights and record as nnU-Net's trainer does. nnU-Net can predict and fine-tune, but not resume.

    Args:
        file: The file, in an existing folder.
        fold: The weights and their record.

    Raises:
        SegflowError: The disk is full.
        OSError, RuntimeError: The file cannot be written for another reason.
    """
    record = fold.record
    content = {
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
            "dataset_json": record.dataset.for_nnunet(),
            "device": torch.device("cpu"),
        },
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": tuple(record.mirror_axes) or None,
    }
    try:
        torch.save(content, file)
    except RuntimeError as error:  # torch does not name a full disk
        raise hidden_error(file.parent) or error from None


def _read(file: Path | IO[bytes], name: str) -> dict[str, Any]:
    content = read_tensors(file, name, HARMLESS_GLOBALS)
    if "nnssl_adaptation_plan" in content:
        raise SegflowError(
            f"{name} holds an encoder that nnssl pretrained, which cannot predict",
            fix=f"Start a training from it: training.initial_weights={name}",
        )
    if not isinstance(content.get("init_args"), Mapping) or "network_weights" not in content:
        raise SegflowError(
            f"{name} is not a checkpoint of nnU-Net v2", found=shortened(list(content), 300), expected="network_weights"
        )
    return content
