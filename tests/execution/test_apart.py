"""Calls in a process apart: what they cost when a library crashes, hangs, or asks for all memory."""

from __future__ import annotations

import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from segflow.core.errors import SegflowError
from segflow.execution.apart import Limits, call_apart
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs

PLENTY = Limits(60.0, 1 << 30)


def process_of(value: int) -> tuple[int, int]:
    return value, os.getpid()


def refuse() -> None:
    raise SegflowError("no voxels", case="abc", found=3, fix="Add some.")


def stumble() -> None:
    raise KeyError("spacing")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    while True:
        time.sleep(1)


def swallow() -> int:
    return len(bytearray(4 << 30))


def speak() -> None:
    logging.getLogger("segflow.test").warning("spacing looks odd: %s", 3)


def read_within_a_job(number: int) -> int:
    if number == 1:
        call_apart(crash, (), subject="b.mha", limits=PLENTY)
    if number == 2:
        call_apart(hang, (), subject="c.mha", limits=Limits(0.3, 1 << 30))
    return call_apart(process_of, (number,), subject="a.mha", limits=PLENTY)[1] - os.getpid()


def test_calls_share_one_process_that_is_not_this_one() -> None:
    (one, first), (two, second) = (call_apart(process_of, (i,), subject="a", limits=PLENTY) for i in (1, 2))
    assert (one, two) == (1, 2)
    assert first == second != os.getpid()


def test_errors_keep_their_parts() -> None:
    with pytest.raises(SegflowError) as caught:
        call_apart(refuse, (), subject="a.mha", limits=PLENTY)
    assert (caught.value.case, caught.value.found, caught.value.fix) == ("abc", 3, "Add some.")


@pytest.mark.parametrize(
    ("function", "limits", "message"),
    [
        (crash, PLENTY, r"reading a\.mha failed: its process died of SIGSEGV"),
        (hang, Limits(0.3, 1 << 30), r"reading a\.mha took longer than its time limit of 0 s"),
        (swallow, PLENTY, r"reading a\.mha took more memory than its header suggests"),
        (stumble, PLENTY, r"reading a\.mha failed: .*KeyError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_call_that_goes_wrong_costs_that_call(function: object, limits: Limits, message: str) -> None:
    with pytest.raises(SegflowError, match=message):
        call_apart(function, (), subject="a.mha", limits=limits)  # type: ignore[arg-type]
    assert call_apart(process_of, (7,), subject="a", limits=PLENTY)[0] == 7


def test_calls_of_many_threads() -> None:
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call_apart, process_of, (i,), subject="a", limits=PLENTY) for i in range(40)]
        assert [call.result()[0] for call in calls] == list(range(40))


def test_what_is_logged_there_is_heard_here(caplog: pytest.LogCaptureFixture) -> None:
    call_apart(speak, (), subject="a", limits=PLENTY)
    assert "spacing looks odd: 3" in caplog.text


def test_a_worker_makes_the_call_itself_and_its_death_costs_one_job() -> None:
    outcomes = run_jobs(read_within_a_job, [Job(f"case_{i}", (i,)) for i in range(4)], processes=2)
    found = {outcome.name: outcome for outcome in outcomes}
    assert [found[f"case_{i}"].value for i in (0, 3)] == [0, 0]
    assert "died of SIGSEGV" in str(found["case_1"].error)
    assert "died of SIGALRM: a C library took longer than its time limit" in str(found["case_2"].error)


def test_a_forked_child_starts_a_process_of_its_own() -> None:
    _, before = call_apart(process_of, (1,), subject="a", limits=PLENTY)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _, own = call_apart(process_of, (1,), subject="a", limits=PLENTY)
        os.write(writer, str(own).encode())
        os._exit(0)
    os.waitpid(child, 0)
    own = int(os.read(reader, 20))
    assert own not in (before, os.getpid(), child)
    assert call_apart(process_of, (5,), subject="a", limits=PLENTY) == (5, before)
