"""What a network gives, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def logits_of_levels(output: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The logits (B, K, *spatial of the level) of a network that gives one tensor, or one for each level.

    Args:
        output: What the network gave: the finest level alone, or all of them, finest first.
    """
    return [output] if isinstance(output, Tensor) else list(output)
