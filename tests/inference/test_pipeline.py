"""Many cases at once: overlapped, bounded, and each failing for itself."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass

import pytest

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.execution.progress import ProgressEvent, silent
from segflow.inference.case_pipeline import Steps, overlapping, run_cases
from segflow.network.devices import DeviceLostError


@dataclass
class Threads:
    resume: bool = True
    readers: int = 1
    writers: int = 1


def steps(written: list[int], **changes: object) -> Steps[int, int, int]:
    options: dict[str, object] = {
        "stage": "predict",
        "read": lambda n: n,
        "compute": lambda n, given: given * 10,
        "write": lambda n, result: written.append(result),
        "is_done": lambda name: False,
    }
    return Steps(**(options | changes))  # type: ignore[arg-type]


CASES = {f"case{n}": n for n in range(6)}


def test_every_case_is_read_computed_and_written_in_order() -> None:
    written: list[int] = []
    report = run_cases(steps(written), CASES, Threads(), silent)
    assert written == [0, 10, 20, 30, 40, 50]
    assert report.done == tuple(CASES)
    assert report.ok


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_a_failure_ends_its_case_only_and_is_told_with_its_name(stage: str) -> None:
    def fail(n: int, given: int = 0) -> int:
        if n in (1, 4):
            raise SegflowError("it is no image", case=f"case{n}") if n == 1 else RuntimeError("boom")
        return given * 10 if stage == "compute" else n

    report = run_cases(steps([], **{stage: fail}), CASES, Threads(), silent)
    assert set(report.done) == {"case0", "case2", "case3", "case5"}
    assert report.failed == {"case1": "case 'case1': it is no image", "case4": "case 'case4': RuntimeError: boom"}
    assert not report.ok


@pytest.mark.parametrize("stage", ["compute", "write"])
def test_a_gpu_that_fails_ends_the_work(stage: str) -> None:
    def fail(n: int, given: int) -> int:
        if n == 2:
            raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")
        return given

    told = r"^case 'case2': a GPU failed and ended the prediction; found CUDA error: unspecified launch failure"
    with pytest.raises(DeviceLostError, match=told):
        run_cases(steps([], **{stage: fail}), CASES, Threads(), silent)


@pytest.mark.parametrize("stage", ["read", "compute", "write"])
def test_a_full_disk_ends_the_work_at_the_first_case_that_meets_it(stage: str) -> None:
    def fail(n: int, given: int = 0) -> int:
        begun.append(n)
        if n == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x.nii.gz")
        return n

    begun: list[int] = []
    with pytest.raises(NoSpaceError, match=r"case 'case1': /data/x.nii.gz: No space left"):
        run_cases(steps([], **{stage: fail}), CASES, Threads(), silent)
    assert len(begun) < len(CASES)


def test_finished_cases_are_skipped_unless_everything_shall_be_done_anew() -> None:
    written: list[int] = []
    known = {"case0", "case3"}
    report = run_cases(steps(written, is_done=known.__contains__), CASES, Threads(), silent)
    assert report.skipped == ("case0", "case3")
    assert written == [10, 20, 40, 50]
    anew = run_cases(steps(written, is_done=known.__contains__), CASES, Threads(resume=False), silent)
    assert anew.skipped == ()
    assert len(anew.done) == 6


def test_the_next_case_is_read_and_the_last_one_written_while_one_is_computed() -> None:
    with_reading, with_writing = threading.Barrier(2, timeout=240), threading.Barrier(2, timeout=240)
    meetings: list[str] = []

    def compute(n: int, given: int) -> int:
        if n == 1:  # meets the reading of case 2, then the writing of case 0
            with_reading.wait()
            meetings.append("read")
            with_writing.wait()
            meetings.append("write")
        return n

    def read(n: int) -> int:
        if n == 2:
            with_reading.wait()
        return n

    def write(n: int, result: int) -> None:
        if n == 0:
            with_writing.wait()

    cases = {f"case{n}": n for n in range(3)}
    run_cases(steps([], read=read, compute=compute, write=write), cases, Threads(), silent)
    assert meetings == ["read", "write"]


def test_few_cases_are_in_memory_however_many_there_are() -> None:
    lock = threading.Lock()
    held, most = 0, 0

    def read(n: int) -> int:
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return n

    def write(n: int, result: int) -> None:
        nonlocal held
        with lock:
            held -= 1

    cases = {f"case{n}": n for n in range(100)}
    run_cases(steps([], read=read, write=write), cases, Threads(), silent)
    assert held == 0
    assert most <= 6


def test_stopping_early_begins_nothing_more_and_finishes_what_is_being_written() -> None:
    read: list[int] = []
    written: list[int] = []

    def note(n: int) -> int:
        read.append(n)
        return n

    for _ in overlapping({f"case{n}": n for n in range(50)}, steps(written, read=note)):
        break
    assert len(read) < 10
    assert written


def test_progress_ends_at_the_number_of_cases_failed_and_skipped_ones_included() -> None:
    events: list[ProgressEvent] = []
    run_cases(
        steps([], is_done="case0".__eq__, compute=lambda n, given: given // (n - 2)), CASES, Threads(), events.append
    )
    assert (events[0].done, events[0].total) == (1, 6)
    assert (events[-1].done, events[-1].total) == (6, 6)
