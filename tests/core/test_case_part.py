"""Parts share the cases of a folder without remainder."""

from __future__ import annotations

import pytest

from segflow.core.case_part import divided, part_of
from segflow.core.errors import SegflowError

CASES = [f"c{number}" for number in range(7)]


@pytest.mark.parametrize("count", [1, 3, 7, 10])
def test_parts_share_the_cases_without_remainder(count: int) -> None:
    parts = [part_of(CASES, f"{k}/{count}") for k in range(count)]
    assert sorted(case for part in parts for case in part) == CASES
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("part", ["0/1", "1/3"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_parts_of_a_part_are_that_part(part: str, count: int) -> None:
    inner = [case for one in divided(part, count) for case in part_of(CASES, one)]
    assert sorted(inner) == part_of(CASES, part)


@pytest.mark.parametrize("part", ["3/3", "1", "a/b", "-1/2", "0/0", ""])
def test_impossible_parts_are_refused(part: str) -> None:
    with pytest.raises(SegflowError, match="part"):
        part_of((), part)
