"""Parts ``k/n`` of the cases of a folder, so that several processes or machines share the work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from segflow.core.errors import SegflowError

WHOLE = "0/1"
"""The part with all cases."""

Case = TypeVar("Case")


def first_and_step(part: str) -> tuple[int, int]:
    """``k/n`` as two numbers.

    Raises:
        SegflowError: The text is no such part, or not 0 <= k < n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if match is None or int(match[1]) >= int(match[2]):
        raise SegflowError("part must be k/n with 0 <= k < n", found=part, expected="such as 0/4, 1/4, 2/4, 3/4")
    return int(match[1]), int(match[2])


def part_of(cases: Sequence[Case], part: str) -> list[Case]:
    """Every n-th case, starting at the k-th.

    Args:
        cases: All of them.
        part: ``k/n`` with 0 <= k < n.

    Raises:
        SegflowError: The text is no such part.
    """
    first, step = first_and_step(part)
    return list(cases[first::step])


def divided(part: str, count: int) -> list[str]:
    """The parts of a part: 1/2 divided by 2 is 1/4 and 3/4.

    Args:
        part: ``k/n`` with 0 <= k < n.
        count: Number of parts.

    Raises:
        SegflowError: The text is no such part.
    """
    first, step = first_and_step(part)
    return [f"{first + number * step}/{step * count}" for number in range(count)]
