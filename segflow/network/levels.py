"""Output of a network, shipped or a user's own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def logits_of_levels(output: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The list of logits (B, K, *spatial of the level), from a network that returns one tensor or a list.

    Args:
        output: Logits of the finest level alone, or of several levels, finest first.
    """
    return [output] if isinstance(output, Tensor) else list(output)
