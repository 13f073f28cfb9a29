"""The rank of this process in a distributed training."""

from __future__ import annotations

from pytorch_lightning.utilities.rank_zero import rank_zero_only


def is_first_rank() -> bool:
    """Whether this process writes and reports. Without distribution it always does."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it on the function
    return rank == 0
