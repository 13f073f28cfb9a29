"""Initial weights from another model, or from a pretrained encoder."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.models.nnssl_checkpoint import PretrainedEncoder, read_pretrained_encoder
from segflow.models.open_model import ModelKind, open_model
from segflow.network.larger_kernels import enlarged_kernel, is_larger_kernel
from segflow.storage.find_folds import find_folds

logger = logging.getLogger(__name__)

LEAST_TAKEN = 0.5
"""Share of the tensors of a pretrained encoder that must fit. A network of another depth lacks some of them."""


@dataclass(frozen=True, slots=True)
class WeightTransfer:
    """Result of the transfer for each tensor.

    Attributes:
        source: Origin of the weights.
        copied: Names of tensors that were copied.
        adapted: Tensors that were adapted, such as to another number of input channels, one sentence each.
        skipped: Tensors that kept their new values or have no place in the network, one sentence each.
    """

    source: str
    copied: tuple[str, ...]
    adapted: tuple[str, ...]
    skipped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for ``run.json``."""
        lists = {"copied": self.copied, "adapted": self.adapted, "skipped": self.skipped}
        return {"source": self.source, **{name: list(entries) for name, entries in lists.items()}}


def read_initial_weights(source: Path) -> Mapping[str, Tensor]:
    """Weights of a checkpoint file, or of the first fold of a model.

    Args:
        source: See `open_model`.

    Raises:
        SegflowError: There is none, or it cannot be used.
    """
    if not source.exists():
        raise SegflowError(
            f"training.initial_weights: there is no {source}",
            expected="a run's folder, a bundle, a model of nnU-Net v2, or a checkpoint (.ckpt, .pth)",
        )
    opened = open_model(source)
    if opened.kind in (ModelKind.FOLD, ModelKind.RUN):
        fold = find_folds(opened.path)[0]
        if not fold.checkpoint().is_file():
            raise SegflowError(
                f"training.initial_weights: {fold.path} is not trained to its end",
                fix=f"Finish it, or give a file such as {fold.checkpoint('best')}",
            )
    return opened.first_weights()


def take_initial_weights(network: nn.Module, source: Path, record: RunRecord) -> WeightTransfer:
    """Give a network the weights of another model, or of an encoder that nnssl pretrained.

    Args:
        network: The network, which is changed in place.
        source: See `read_initial_weights`; or a checkpoint of nnssl.
        record: Record of the fold to train.

    Raises:
        SegflowError: The weights cannot be read, or do not fit the network.
    """
    encoder = read_pretrained_encoder(source)
    if encoder is not None:
        return transfer_encoder(network, encoder, str(source), record.plan.topology.network)
    cascade = record.plan.previous_stage is not None
    return transfer_weights(network, read_initial_weights(source), str(source), cascade=cascade)


def transfer_weights(
    network: nn.Module, weights: Mapping[str, Tensor], source: str, *, cascade: bool = False
) -> WeightTransfer:
    """Copy tensors that fit, adapt the first convolution to other input channels, and list the rest.

    If the number of input channels differs, the first convolution gets the mean over the source's channels, scaled so
    that its response to equal channels stays the same. Larger depthwise kernels are interpolated. Heads with another
    number of labels keep their new values.

    Args:
        network: The network, which is changed in place.
        weights: Tensors by the names of the network's state.
        source: Origin of the weights, for messages.
        cascade: The network takes labels of a previous stage as channels, which no other channel can stand in for.

    Raises:
        SegflowError: No tensor fits, or a cascade's input differs.
    """
    own = network.state_dict()
    first = _first_kernel(own)
    fitting = _Fitting()
    for name, value in own.items():
        given = weights.get(name)
        adapted = None
        if given is not None and name == first:
            adapted = _to_channels(given, value)
            if adapted and cascade and given.shape[1] != value.shape[1]:
                raise _other_labels(given.shape[1], value.shape[1], source)
        elif given is not None and is_larger_kernel(value.shape, given.shape):
            kernels = f"a kernel of {list(given.shape[2:])} became {list(value.shape[2:])}"
            adapted = enlarged_kernel(given, value.shape[2:]), kernels
        fitting.take(name, value, given, adapted)
    fitting.skipped += [f"{name}: the network has none" for name in weights if name not in own]
    if not fitting.copied:
        raise SegflowError(
            "training.initial_weights: no tensor fits the network",
            found=f"{source}: {'; '.join(fitting.skipped[:3])}",
            fix="The source must be of the same topology: plan with the plans of that run.",
        )
    return fitting.load(network, source)


def transfer_encoder(network: nn.Module, encoder: PretrainedEncoder, source: str, planned: str) -> WeightTransfer:
    """Copy a pretrained encoder; the decoder keeps its new values.

    The first convolution is adapted to other input channels, learnt places to another patch (trilinear), and a kernel
    of 3 voxels to one of 1 by its mean. Levels and blocks that only one of both has are listed.

    Args:
        network: The network, which is changed in place.
        encoder: The encoder.
        source: Origin of the weights, for messages.
        planned: Name of the network in the plans.

    Raises:
        SegflowError: It is an encoder of another architecture, or of other widths.
    """
    fix = f"Plan and preprocess with planner={encoder.planner}, and train with its plans."
    if planned != encoder.network:
        raise SegflowError(
            "training.initial_weights: the encoder is of another architecture than the network",
            found=f"{encoder.architecture} in {source}, and a '{planned}' in the plans",
            fix=fix,
        )
    own = network.state_dict()
    first = _first_kernel(own)
    fitting = _Fitting()
    for name, value in own.items():
        given = encoder.weights.get(name)
        adapted = None
        if given is not None and given.shape != value.shape:
            channels = _to_channels(given, value) if name == first else None
            adapted = channels or _to_smaller_kernel(given, value) or _to_grid(given, value, encoder, network)
        fitting.take(name, value, given, adapted)
    taken = len(fitting.result)
    if taken < LEAST_TAKEN * len(encoder.weights):
        raise SegflowError(
            "training.initial_weights: the pretrained encoder does not fit the network",
            found=f"{taken} of {len(encoder.weights)} tensors of {encoder.architecture} in {source} fit; "
            + "; ".join(line for line in fitting.skipped if "the source has [" in line),
            fix=fix,
        )
    fitting.skipped += [f"{name}: the network has none" for name in encoder.weights if name not in own]
    fitting.skipped += [f"{name}: not a part of the encoder" for name in encoder.left]
    return fitting.load(network, source)


class _Fitting:
    """Tensors for a network, and a sentence about each that was adapted or left."""

    def __init__(self) -> None:
        self.result: dict[str, Tensor] = {}
        self.copied: list[str] = []
        self.adapted: list[str] = []
        self.skipped: list[str] = []

    def take(self, name: str, value: Tensor, given: Tensor | None, adapted: tuple[Tensor, str] | None) -> None:
        """Take what is given for a tensor: as it is, adapted, or not at all."""
        if given is None:
            self.skipped.append(f"{name}: the source has none")
        elif given.shape == value.shape:
            self.result[name] = given
            self.copied.append(name)
        elif adapted is not None:
            self.result[name] = adapted[0]
            self.adapted.append(f"{name}: {adapted[1]}")
        else:
            self.skipped.append(f"{name}: the source has {list(given.shape)}, the network {list(value.shape)}")

    def load(self, network: nn.Module, source: str) -> WeightTransfer:
        """Put the tensors into the network, and log what became of each."""
        network.load_state_dict(self.result, strict=False)
        logger.info("initial weights from %s: %d tensors copied", source, len(self.copied))
        for line in self.adapted:
            logger.info("initial weights adapted: %s", line)
        for line in self.skipped:
            logger.warning("initial weights skipped: %s", line)
        return WeightTransfer(source, tuple(self.copied), tuple(self.adapted), tuple(self.skipped))


def _first_kernel(own: Mapping[str, Tensor]) -> str | None:
    return next((name for name, value in own.items() if value.dim() >= 4), None)


def _to_channels(given: Tensor, value: Tensor) -> tuple[Tensor, str] | None:
    """A first kernel for another number of input channels."""
    if given.shape[0] != value.shape[0] or given.shape[2:] != value.shape[2:]:
        return None
    return _other_channels(given, value.shape[1]), f"{given.shape[1]} input channels became {value.shape[1]}"


def _to_smaller_kernel(given: Tensor, value: Tensor) -> tuple[Tensor, str] | None:
    """The mean over the axes along which the network's kernel has one voxel."""
    if given.dim() != value.dim() or given.dim() < 4 or given.shape[:2] != value.shape[:2]:
        return None
    axes = [axis for axis in range(2, value.dim()) if given.shape[axis] != value.shape[axis]]
    if any(value.shape[axis] != 1 for axis in axes):
        return None
    kernels = f"a kernel of {list(given.shape[2:])} became one of {list(value.shape[2:])}"
    return given.mean(dim=axes, keepdim=True), kernels


def _to_grid(given: Tensor, value: Tensor, encoder: PretrainedEncoder, network: nn.Module) -> tuple[Tensor, str] | None:
    """Learnt vectors of places (1, tokens, features) for another patch."""
    grid, stem = getattr(network, "grid", None), encoder.weights.get("stem.weight")
    if grid is None or stem is None or encoder.patch_size is None or given.dim() != 3:
        return None
    before = tuple(n // edge for n, edge in zip(encoder.patch_size, stem.shape[2:], strict=False))
    if len(before) != len(grid) or given.shape[1] != math.prod(before) or given.shape[2] != value.shape[2]:
        return None
    places = given.float().transpose(1, 2).unflatten(2, before)
    resized = functional.interpolate(places, size=tuple(grid), mode="trilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2), f"places of {list(before)} tokens became {list(grid)}"


def _other_labels(found: int, expected: int, source: str) -> SegflowError:
    return SegflowError(
        "training.initial_weights: the input of a cascade is the image and one channel for each label of its previous "
        "stage, and the source has another number of them",
        found=f"{found} in {source}",
        expected=expected,
        fix="Fine-tune the previous stage and 3d_fullres, or take a cascade of a dataset with as many labels.",
    )


def _other_channels(weight: Tensor, channels: int) -> Tensor:
    mean = weight.mean(dim=1, keepdim=True) * (weight.shape[1] / channels)
    return mean.expand(-1, channels, *weight.shape[2:]).to(memory_format=torch.contiguous_format)
