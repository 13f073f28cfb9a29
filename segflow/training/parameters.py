"""Freezing of parameters, and their learning rates."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from segflow.core.errors import SegflowError

logger = logging.getLogger(__name__)


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Exclude parameters from training. A frozen batch norm still updates its running statistics.

    Args:
        network: The network, which is changed in place.
        patterns: Shell patterns of parameter names, such as ``encoder.*``.

    Raises:
        SegflowError: A pattern fits no parameter, or nothing is left to train.
    """
    named = dict(network.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns:
        frozen |= set(_matching(named, pattern, "training.freeze"))
    if frozen and len(frozen) == len(named):
        raise SegflowError("training.freeze leaves nothing to train", found=list(patterns))
    for name in frozen:
        named[name].requires_grad_(False)
    if frozen:
        logger.info("%d of %d parameter tensors are frozen", len(frozen), len(named))


def parameter_groups(
    network: nn.Module, lr_factors: Mapping[str, float]
) -> tuple[list[dict[str, Any]], tuple[float, ...]]:
    """Trainable parameters, grouped by the factor on their learning rate. The first pattern that matches a name counts.

    Returns:
        Groups for an optimizer, and the factor of each.

    Raises:
        SegflowError: A pattern fits no parameter.
    """
    trainable = {name: value for name, value in network.named_parameters() if value.requires_grad}
    factor_of = dict.fromkeys(trainable, 1.0)
    for pattern, factor in reversed(list(lr_factors.items())):
        for name in _matching(trainable, pattern, "training.lr_factors"):
            factor_of[name] = float(factor)
    # The full rate comes first, since the first one is shown.
    factors = tuple(sorted(set(factor_of.values()), key=lambda factor: (factor != 1.0, factor)))
    groups = [
        {"params": [value for name, value in trainable.items() if factor_of[name] == factor]} for factor in factors
    ]
    return groups, factors


def _matching(named: Mapping[str, Any], pattern: str, setting: str) -> list[str]:
    found = [name for name in named if fnmatchcase(name, pattern)]
    if not found:
        raise SegflowError(
            f"{setting}: no parameter is named like '{pattern}'",
            expected=f"a pattern that fits some of {', '.join(list(named)[:3])}, … (* stands for anything)",
        )
    return found
