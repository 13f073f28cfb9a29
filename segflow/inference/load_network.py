"""Trained networks ready to predict, from every kind of model that segflow reads."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.models.bundle_file import is_bundle, read_bundle
from segflow.models.nnunet_model import is_nnunet_model, previous_model, read_nnunet_model
from segflow.models.own_runs import previous_run, read_fold, read_run
from segflow.models.trained_fold import Folds, TrainedFold, check_size, load_weights
from segflow.network.build import build_network
from segflow.storage.folds import Fold, named_checkpoint, no_run

logger = logging.getLogger(__name__)

Build = Callable[..., nn.Module]
"""(topology, in_channels, out_channels, deep_supervision) → network; see `segflow.network.build.build_network`."""


@dataclass(frozen=True, slots=True)
class Model:
    """The networks of one configuration, one per fold.

    Attributes:
        record: Of the first fold; dataset, plans and configuration are the same for all.
        networks: In evaluation mode, without deep supervision, on the CPU.
        folds: Names of the folds, in the networks' order.
        source: Where the model lies.
    """

    record: RunRecord
    networks: tuple[nn.Module, ...]
    folds: tuple[str, ...]
    source: Path


def load_network(folder: Fold, checkpoint: str = "final", *, build: Build = build_network) -> nn.Module:
    """The network of one of our own folds, with its trained weights.

    Args:
        folder: The fold's folder.
        checkpoint: ``final``, ``best`` or ``last``.
        build: What makes the network; a registry of ours, unless the caller trusts another.

    Returns:
        In evaluation mode and without deep supervision, on the CPU.

    Raises:
        SegflowError: The fold was not trained, or its weights cannot be read or do not fit.
    """
    fold = read_fold(folder, checkpoint)
    return _load(_build(fold, build), fold)


def load_model(
    path: Path,
    *,
    folds: Folds = "all",
    checkpoint: str = "final",
    configuration: str | None = None,
    build: Build = build_network,
) -> Model:
    """Load the networks of a model.

    Args:
        path: One of our folds, a checkpoint in it, the run's folder above it, a bundle, or a model of nnU-Net v2 as a
            folder or zip.
        folds: ``all``, or names of folds.
        checkpoint: ``final``, ``best`` or ``last``; a bundle has one only.
        configuration: Which model, where the path holds several.
        build: See `load_network`.

    Raises:
        SegflowError: There is no model, folds disagree, or weights cannot be read or do not fit.
    """
    path, checkpoint = named_checkpoint(path, checkpoint)
    if not path.exists():
        raise no_run(path, f"there is no model {path}")
    if is_bundle(path):
        trained = read_bundle(path, folds, configuration)
    elif is_nnunet_model(path):
        trained = read_nnunet_model(path, folds, checkpoint, configuration)
    elif path.is_file():
        raise SegflowError(
            f"{path} is no model, or is cut off", expected="a run's folder, a bundle, or a folder or zip of nnU-Net v2"
        )
    else:
        trained = read_run(path, folds, checkpoint)
    first = trained[0]
    for other in trained[1:]:
        if other.record.configuration != first.record.configuration or other.record.plan != first.record.plan:
            raise SegflowError(
                "folds of one model were trained with different plans",
                found=f"{first.source} and {other.source}",
                fix="Choose folds that belong together, as folds=0.",
            )
    blank = _build(first, build)
    # Copies, so that initial weights, which nobody will use, are drawn once and not for every fold.
    networks = tuple(_load(copy.deepcopy(blank), fold) for fold in trained)
    names = tuple(str(fold.record.fold) for fold in trained)
    logger.info("loaded %s of %s, fold %s", first.record.configuration, path, ", ".join(names))
    return Model(first.record, networks, names, path)


def find_previous_stage(path: Path, record: RunRecord) -> tuple[Path, str]:
    """Where the model lies whose predictions a cascade takes as input.

    Args:
        path: Where the cascade's own model lies.
        record: Of the cascade.

    Returns:
        Path and configuration for `load_model`.

    Raises:
        SegflowError: It cannot be found; says how to name it.
    """
    previous = str(record.plan.previous_stage)
    if is_bundle(path):
        return path, previous
    return (previous_model(path, previous) if is_nnunet_model(path) else previous_run(path, record)), previous


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name; ``auto`` is a CUDA device where there is one, else the CPU.

    Raises:
        SegflowError: torch knows no such device, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SegflowError(
            f"cannot compute on device '{name}': {reason}", expected="auto, cpu, cuda, cuda:1"
        ) from error
    return device


def _build(fold: TrainedFold, build: Build) -> nn.Module:
    record = fold.record
    if getattr(build, "func", build) is build_network:  # a network of the user's own need not follow the plans
        check_size(fold)
    return build(record.plan.topology, record.in_channels, record.dataset.labels.num_outputs, False)


def _load(network: nn.Module, fold: TrainedFold) -> nn.Module:
    return load_weights(network, fold).eval().requires_grad_(False)
