"""What came of many jobs, and how far they are."""

from __future__ import annotations

import pytest

from segflow.core.errors import CaseErrors
from segflow.execution.gathering import gather
from segflow.execution.jobs import Outcome
from segflow.execution.progress import ProgressEvent

OUTCOMES = [Outcome("b", 2), Outcome("c", None, "case 'c' failed"), Outcome("a", None, "case 'a' failed")]


def test_each_job_is_told_of_after_it_is_done() -> None:
    seen: list[ProgressEvent] = []
    gathered = gather(iter(OUTCOMES), 3, "measure", seen.append)
    assert gathered.values == {"b": 2}
    assert gathered.failed == {"c": "case 'c' failed", "a": "case 'a' failed"}
    assert [(event.stage, event.name, event.done, event.total) for event in seen] == [
        ("measure", "", 0, 3),
        ("measure", "b", 1, 3),
        ("measure", "c", 2, 3),
        ("measure", "a", 3, 3),
    ]


def test_failures_are_raised_together_in_order() -> None:
    with pytest.raises(CaseErrors, match=r"(?s)not measured \(2 problems\).*case 'a'.*case 'c'.*\nTry again\."):
        gather(OUTCOMES, 3, "measure").all_values("not measured", fix="Try again.")
    assert gather(OUTCOMES[:1], 1, "measure").all_values("not measured") == {"b": 2}
    assert gather([], 0, "measure").all_values("not measured") == {}
