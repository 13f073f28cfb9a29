"""Threads of one computation: what was granted is used, and results and errors are those of one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from segflow.execution.jobs import Job
from segflow.execution.machine import THREADS_VARIABLE, granted_threads, processor_count, threads_granted
from segflow.execution.parallel import run_jobs
from segflow.execution.threads import for_each, meanwhile


@pytest.fixture
def without_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)


def _granted(least: int) -> int:
    if granted_threads() < least:
        raise ValueError(f"only {granted_threads()} threads")
    return granted_threads()


def test_a_job_in_this_process_gets_its_processors(without_grant: None) -> None:
    jobs = [Job("a", (1,)), Job("b", (10_000,)), Job("c", (1,))]
    for outcome in run_jobs(_granted, jobs, processes=0):
        assert granted_threads() == 1  # between jobs, the caller has what it had
        assert outcome.value == (None if outcome.name == "b" else processor_count())
    assert granted_threads() == 1


def test_a_grant_of_the_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    with threads_granted(8):
        assert granted_threads() == 3
    assert granted_threads() == 3


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_each_part_has_its_call(without_grant: None, threads: int) -> None:
    done: list[int] = []
    with threads_granted(threads):
        for_each(done.append, range(20))
        for_each(done.append, [])
    assert sorted(done) == [*range(20)]


def test_as_many_threads_as_were_granted_work_at_the_same_time(without_grant: None) -> None:
    together = threading.Barrier(3, timeout=60)
    with threads_granted(3):
        for_each(lambda _: together.wait(), range(6))


def test_the_caller_may_choose_another_number_of_threads(without_grant: None) -> None:
    lock, counts = threading.Lock(), [0, 0]

    def work(_: int) -> None:
        with lock:
            counts[0] += 1
            counts[1] = max(counts)
        time.sleep(0.01)
        with lock:
            counts[0] -= 1

    with threads_granted(8):
        for_each(work, range(30), 2)
    assert counts == [0, 2]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_exception_of_a_part_is_raised(without_grant: None, threads: int) -> None:
    def fail(part: int) -> None:
        if part == 4:
            raise ValueError("the fourth")

    with threads_granted(threads), pytest.raises(ValueError, match="the fourth"):
        for_each(fail, range(9))


def _thread_of(granted: int, chosen: int | None = None) -> tuple[Callable[[], int], bool]:
    """A call that gives the thread it runs on; and whether it was made before its result was asked for."""
    called = threading.Event()

    def call() -> int:
        called.set()
        return threading.get_ident()

    with threads_granted(granted), meanwhile(call, chosen) as result:
        called.wait(60 if (chosen or granted) > 1 else 0)
        before = called.is_set()
    return result, before


def test_a_call_runs_meanwhile_where_threads_were_granted(without_grant: None) -> None:
    here = threading.get_ident()
    result, before = _thread_of(2)
    assert before
    assert result() != here
    result, before = _thread_of(1, 2)
    assert before
    for granted, chosen in ((1, None), (2, 1)):
        result, before = _thread_of(granted, chosen)
        assert not before
        assert result() == here


@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_meanwhile_is_raised_with_its_result(without_grant: None, threads: int) -> None:
    def fail() -> None:
        raise ValueError("of the call")

    with threads_granted(threads):
        with meanwhile(fail) as result:
            pass
        with pytest.raises(ValueError, match="of the call"):
            result()
        with pytest.raises(KeyError), meanwhile(fail):  # the block's own comes first
            raise KeyError
