"""Initial weights from another model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.models.open_model import ModelKind, open_model
from segflow.network.larger_kernels import enlarged_kernel, is_larger_kernel
from segflow.storage.find_folds import find_folds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WeightTransfer:
    """Result of the transfer for each tensor.

    Attributes:
        copied: Names of tensors that were copied.
        adapted: Tensors that were adapted to another number of input channels or to larger kernels, one sentence each.
        skipped: Tensors that kept their new values or have no place in the network, one sentence each.
    """

    copied: tuple[str, ...]
    adapted: tuple[str, ...]
    skipped: tuple[str, ...]


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
    first = next((name for name, value in own.items() if value.dim() >= 4), None)
    copied, adapted, skipped = [], [], []
    result: dict[str, Tensor] = {}
    for name, value in own.items():
        given = weights.get(name)
        if given is None:
            skipped.append(f"{name}: the source has none")
        elif given.shape == value.shape:
            result[name] = given
            copied.append(name)
        elif name == first and given.shape[0] == value.shape[0] and given.shape[2:] == value.shape[2:]:
            if cascade and given.shape[1] != value.shape[1]:
                raise _other_labels(given.shape[1], value.shape[1], source)
            result[name] = _other_channels(given, value.shape[1])
            adapted.append(f"{name}: {given.shape[1]} input channels became {value.shape[1]}")
        elif is_larger_kernel(value.shape, given.shape):
            result[name] = enlarged_kernel(given, value.shape[2:])
            adapted.append(f"{name}: a kernel of {list(given.shape[2:])} became {list(value.shape[2:])}")
        else:
            skipped.append(f"{name}: the source has {list(given.shape)}, the network {list(value.shape)}")
    skipped += [f"{name}: the network has none" for name in weights if name not in own]
    if not copied:
        raise SegflowError(
            "training.initial_weights: no tensor fits the network",
            found=f"{source}: {'; '.join(skipped[:3])}",
            fix="The source must be of the same topology: plan with the plans of that run.",
        )
    network.load_state_dict(result, strict=False)
    logger.info("initial weights from %s: %d tensors copied", source, len(copied))
    for line in adapted:
        logger.info("initial weights adapted: %s", line)
    for line in skipped:
        logger.warning("initial weights skipped: %s", line)
    return WeightTransfer(tuple(copied), tuple(adapted), tuple(skipped))


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
