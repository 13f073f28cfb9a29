"""Loading of trained networks from every kind of model that segflow reads."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segflow.core.errors import SegflowError
from segflow.core.missing_channels import missing_in_all
from segflow.core.run_record import RunRecord
from segflow.models.open_model import open_model
from segflow.models.trained_fold import Folds, TrainedFold, check_size, load_weights
from segflow.network.build import build_network

logger = logging.getLogger(__name__)

Build = Callable[..., nn.Module]
"""(topology, in_channels, out_channels, deep_supervision) → network; see `segflow.network.build.build_network`."""


@dataclass(frozen=True, slots=True)
class Model:
    """The networks of one configuration, one per fold.

    Attributes:
        record: Record of the first fold. Dataset, plans and configuration are the same for all. Channels may be missing
            without which all folds do.
        networks: Networks in evaluation mode, without deep supervision, on the CPU.
        folds: Names of the folds, in the order of the networks.
        source: Path of the model.
    """

    record: RunRecord
    networks: tuple[nn.Module, ...]
    folds: tuple[str, ...]
    source: Path


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
        path: See `open_model`.
        folds: ``all``, or names of folds.
        checkpoint, configuration: See `open_model`.
        build: Builds the network. It must be given for a user's own network.

    Raises:
        SegflowError: There is no model, folds disagree, or weights cannot be read or do not fit.
    """
    opened = open_model(path, checkpoint=checkpoint, configuration=configuration)
    trained = opened.read(folds)
    first = trained[0]
    for other in trained[1:]:
        if other.record.configuration != first.record.configuration or other.record.plan != first.record.plan:
            raise SegflowError(
                "folds of one model were trained with different plans",
                found=f"{first.source} and {other.source}",
                fix="Choose folds that belong together, such as folds=0.",
            )
    if len({fold.record.has_channel_mask for fold in trained}) > 1:
        raise SegflowError(
            "only some folds of the model are told which channels of an image are there",
            found=", ".join(f"{fold.source}: {fold.record.has_channel_mask}" for fold in trained),
            fix="Choose folds that were trained with the same training.channel_mask.",
        )
    record = replace(first.record, missing=missing_in_all([fold.record.missing for fold in trained]))
    blank = _build(first, build)
    blanks = [*(copy.deepcopy(blank) for _ in trained[1:]), blank]
    networks = tuple(_load(network, fold) for network, fold in zip(blanks, trained, strict=True))
    names = tuple(str(fold.record.fold) for fold in trained)
    logger.info("loaded %s of %s, fold %s", first.record.configuration, opened.path, ", ".join(names))
    if members := first.record.mean_of:
        logger.info(
            "the weights are the mean of %d trainings: scores on cases of any of them are of seen data", len(members)
        )
    return Model(record, networks, names, opened.path)


def find_previous_stage(path: Path, record: RunRecord) -> tuple[Path, str]:
    """Find the model of a cascade's previous stage.

    Args:
        path: Path of the cascade's model.
        record: Record of the cascade.

    Returns:
        Path and configuration for `load_model`.

    Raises:
        SegflowError: It cannot be found. The error says how to name it.
    """
    return open_model(path).previous_stage(record)


def _build(fold: TrainedFold, build: Build) -> nn.Module:
    record = fold.record
    sizes = record.plan.topology, record.in_channels, record.dataset.labels.num_outputs
    if getattr(build, "func", build) is not build_network:  # a user's own network need not follow the plans
        return build(*sizes, False)
    check_size(fold)
    with _Undrawn():
        return build(*sizes, False)


class _Undrawn(TorchFunctionMode):
    """Leaves out the drawing of initial weights, which takes long, where a checkpoint replaces all of them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        draws = func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == nn.init.__name__
        return (args[0] if args else kwargs["tensor"]) if draws else func(*args, **kwargs)


def _load(network: nn.Module, fold: TrainedFold) -> nn.Module:
    return load_weights(network, fold).eval().requires_grad_(False)
