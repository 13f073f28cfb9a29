"""``max_memory_gb``: one limit for a command and its processes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from segflow.core.errors import SegflowError
from segflow.execution.jobs import Job
from segflow.execution.machine import (
    GB,
    MEMORY_VARIABLE,
    check_room,
    held_bytes,
    memory_bytes,
    memory_limited,
    peak_bytes,
)
from segflow.execution.parallel import run_jobs


def limit_in_worker() -> int:
    return memory_bytes()


def note(folder: str, name: str) -> str:
    (Path(folder) / name).touch()
    return name


def beside_this_process(gigabytes: float) -> float:
    """A limit that leaves so much, whatever the tests before this one have loaded."""
    return held_bytes() / GB + gigabytes


@pytest.mark.parametrize("processes", [0, 2])
def test_a_case_that_does_not_fit_is_refused_and_the_others_are_done(tmp_path: Path, processes: int) -> None:
    sizes = {"a": 10 << 20, "b": 5 * GB, "c": 20 << 20}
    jobs = [Job(name, (str(tmp_path), name), size, f"{size} voxels") for name, size in sizes.items()]
    limit = beside_this_process(1.9)
    with memory_limited(limit):
        outcomes = list(run_jobs(note, jobs, processes=processes))
    assert outcomes[0].name == "b", "what does not fit is told before work starts"
    error = str(outcomes[0].error)
    assert re.match(
        r"case 'b': this case needs \d\S* GB of memory; found 5368709120 voxels; expected at most \d\S* GB, "
        r"which max_memory_gb leaves\. Raise max_memory_gb",
        error,
    )
    needed, there = (float(number) for number in re.findall(r"([\d.]+) GB", error))
    assert there == pytest.approx(limit, rel=0.01)
    assert needed >= 5
    assert sorted(outcome.value for outcome in outcomes[1:]) == ["a", "c"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "c"]


def test_without_a_limit_a_large_case_runs_alone(tmp_path: Path) -> None:
    jobs = [Job("a", (str(tmp_path), "a"), 2 * memory_bytes())]
    assert [outcome.value for outcome in run_jobs(note, jobs, processes=1)] == ["a"]


def test_a_worker_has_what_its_parent_leaves() -> None:
    limit = beside_this_process(1.4)
    with memory_limited(limit):
        [outcome] = run_jobs(limit_in_worker, [Job("a", ())], processes=1)
    assert outcome.value == pytest.approx(limit * GB - held_bytes(), rel=0.1)
    assert MEMORY_VARIABLE not in os.environ


def test_a_limit_within_a_limit_ends_with_its_block() -> None:
    with memory_limited(13):
        with memory_limited(12):
            assert memory_bytes() == 12 * GB
        with memory_limited(None):
            assert memory_bytes() == 13 * GB


def test_an_array_beyond_the_limit_is_refused() -> None:
    with (
        memory_limited(beside_this_process(1.9)),
        pytest.raises(SegflowError, match=r"the sum needs \d\S* GB of memory; found 9; expected at most \d"),
    ):
        check_room(3 * GB, "the sum", found="9")
    check_room(3 * GB, "the sum", found="9")


def test_what_a_process_holds_counts_for_its_limit() -> None:
    limit = (held_bytes() + 2 * GB) / GB
    with memory_limited(limit):
        check_room(int(1.9 * GB), "the sum", found="9")
        with pytest.raises(SegflowError, match="needs"):
            check_room(int(2.1 * GB), "the sum", found="9")


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "much"])
def test_a_limit_is_a_number_above_zero(value: object) -> None:
    with pytest.raises(SegflowError, match="max_memory_gb is not a size of memory; found"), memory_limited(value):  # type: ignore[arg-type]
        pass


def test_the_limit_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, "3")
    assert memory_bytes() == 3 * GB
    monkeypatch.setenv(MEMORY_VARIABLE, "much")
    with pytest.raises(SegflowError, match=f"{MEMORY_VARIABLE} is not a size of memory; found much"):
        memory_bytes()


def test_a_limit_below_python_itself_is_one_message() -> None:
    assert held_bytes() > 0.02 * GB
    assert peak_bytes() >= 0.9 * held_bytes()
    with (
        pytest.raises(SegflowError, match=r"max_memory_gb=0\.01 is too little for any work; found \d"),
        memory_limited(0.01),
    ):
        pass
