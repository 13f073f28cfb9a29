"""Channel numbers at the end of file names: ``scan_0001`` is the second channel of case ``scan`` (recipe 1.3)."""

from __future__ import annotations

import re
from typing import NamedTuple

_NUMBERED = re.compile(r"(.+)_([0-9]{4})", re.DOTALL)


class CaseChannel(NamedTuple):
    """Case and channel from the name of an image.

    Attributes:
        case_id: Name of the case.
        number: Number of the channel, from 0; None if the name has none.
    """

    case_id: str
    number: int | None


def case_and_channel(stem: str) -> CaseChannel:
    """Split a file's name without its ending. A name without a number is the case's name."""
    match = _NUMBERED.fullmatch(stem)
    return CaseChannel(match[1], int(match[2])) if match else CaseChannel(stem, None)


def channel_name(case_id: str, number: int, ending: str) -> str:
    """File name of a channel; channels count from 0."""
    return f"{case_id}_{number:04d}{ending}"
