"""Durations and clock times in messages."""

from __future__ import annotations

from datetime import datetime

import pytest

from segflow.core.wording import duration_text, moment_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0, "0.0 s"), (-1.0, "0.0 s"), (0.72, "0.7 s"), (9.96, "10 s"), (59.4, "59 s"), (59.7, "1 min")),
        *((65, "1 min 5 s"), (599.7, "10 min"), (3599, "1 h"), (4320, "1 h 12 min"), (86399, "1 d")),
        *((86400 * 2 + 3600 * 3, "2 d 3 h"), (86400 * 3, "3 d")),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("hours", "text"), [(1, "19:40"), (6, "Fri 00:40"), (24 * 6, "Wed 18:40"), (24 * 7, "2026-12-03 18:40")]
)
def test_a_moment_names_the_day_if_it_is_not_today(hours: int, text: str) -> None:
    assert moment_text(hours * 3600, datetime(2026, 11, 26, 18, 40)) == text
