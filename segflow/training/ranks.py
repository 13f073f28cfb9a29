"""The team of this process: those that train one fold together.

There is one at a time, as there is one of torch's process groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from segflow.execution.place import Place
from segflow.training.team import Team

_ALONE = Team(Place())
_team = _ALONE


def team() -> Team:
    """The team of this process, which is alone outside of `joined`."""
    return _team


def is_first_rank() -> bool:
    """Whether this process claims the folder, writes and reports."""
    return _team.is_first


@contextmanager
def joined(place: Place, topic: str = "") -> Iterator[Team]:
    """Join the processes that train one fold, see `Team.met`. Within a team nothing happens.

    Args:
        place: The place of this process.
        topic: What they train, the same text for all.
    """
    global _team
    if _team is not _ALONE:
        yield _team
        return
    before = rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it on the function
    _team = Team(place, topic)
    try:
        rank_zero_only.rank = 0 if place.is_first else place.rank or 1  # type: ignore[attr-defined]
        with _team.met():
            yield _team
    finally:
        rank_zero_only.rank = before  # type: ignore[attr-defined]
        _team = _ALONE
