"""Which of the processes of a distributed training this one is."""

from __future__ import annotations

from pytorch_lightning.utilities.rank_zero import rank_zero_only


def is_first_rank() -> bool:
    """Whether this process is the one that writes and reports; without distribution it always is."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it on the function
    return rank == 0
