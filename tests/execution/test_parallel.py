from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.execution.jobs import Job
from segflow.execution.machine import memory_bytes, processor_count
from segflow.execution.parallel import run_jobs


def square(value: int) -> int:
    return value * value


def fail(value: int) -> int:
    if value == 1:
        raise SegflowError("the image has no voxels", case="abc")
    if value == 2:
        raise KeyError("spacing")
    return value


def die(value: int, number: int) -> int:
    if value == 1:
        os.kill(os.getpid(), number)
    return value


def die_once(marker: str) -> str:
    path = Path(marker)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def note_times(folder: str, name: str, seconds: float) -> None:
    (Path(folder) / f"{name}.start").write_text(str(time.monotonic()))
    time.sleep(seconds)
    (Path(folder) / f"{name}.end").write_text(str(time.monotonic()))


def span(folder: Path, name: str) -> tuple[float, float]:
    return float((folder / f"{name}.start").read_text()), float((folder / f"{name}.end").read_text())


def fill_the_disk(value: int) -> int:
    if value == 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x.nii.gz")
    if value == 2:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/data/y.nii.gz")
    return value


class Unreadable:
    """Travels, but cannot be made again from what arrives."""

    def __reduce__(self) -> tuple[object, ...]:
        return (int, ("no number",))


def unreadable() -> Unreadable:
    return Unreadable()


def leave(code: int) -> None:
    os._exit(code)


def ask_for_too_much() -> None:
    raise MemoryError


def speak() -> None:
    print("a library prints")
    logging.getLogger("segflow.test").warning("spacing looks odd: %s", 3)


def make_lambda() -> object:
    return lambda: 1


@pytest.mark.parametrize("processes", [0, 1, 3])
def test_every_job_has_its_outcome(processes: int) -> None:
    outcomes = list(run_jobs(square, [Job(f"c{i}", (i,)) for i in range(7)], processes=processes))
    assert {o.name: o.value for o in outcomes} == {f"c{i}": i * i for i in range(7)}
    assert all(o.error is None for o in outcomes)


def test_workers_go_on_while_the_caller_looks_at_an_outcome(tmp_path: Path) -> None:
    jobs = [Job(name, (str(tmp_path), name, 0.0)) for name in ("first", "second")]
    for outcome in run_jobs(note_times, jobs, processes=1):
        assert outcome.error is None
        end = time.monotonic() + 60
        while not (tmp_path / "second.end").exists():
            assert time.monotonic() < end, "the second job waits for the caller"
            time.sleep(0.01)


def test_no_jobs_no_outcomes() -> None:
    assert list(run_jobs(square, [], processes=2)) == []


@pytest.mark.parametrize("processes", [0, 2])
def test_an_exception_ends_its_own_job_only(processes: int) -> None:
    outcomes = {o.name: o for o in run_jobs(fail, [Job(f"c{i}", (i,)) for i in range(4)], processes=processes)}
    assert outcomes["c1"].error == "case 'abc': the image has no voxels"
    assert "'c2': KeyError: 'spacing'" in str(outcomes["c2"].error)
    assert "test_parallel.py" in str(outcomes["c2"].error)
    assert outcomes["c3"].value == 3


@pytest.mark.parametrize("processes", [0, 1])
def test_a_full_disk_ends_all_jobs_and_any_other_refusal_its_own(processes: int) -> None:
    before = children(os.getpid())
    outcomes = run_jobs(fill_the_disk, [Job(f"c{i}", (i,)) for i in (2, 0, 1, 3)], processes=processes)
    assert "/data/y.nii.gz: Too many open files" in str(next(outcomes).error)
    assert next(outcomes).value == 0
    with pytest.raises(NoSpaceError, match=r"case 'c1': /data/x.nii.gz: No space left.*run the same command again"):
        next(outcomes)
    assert children(os.getpid()) == before


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGKILL, "memory"), (signal.SIGSEGV, "C library"), (signal.SIGBUS, "/dev/shm")],
)
def test_a_dead_worker_is_named_with_its_cause(number: int, cause: str) -> None:
    outcomes = {o.name: o for o in run_jobs(die, [Job(f"c{i}", (i, number)) for i in range(4)], processes=2)}
    error = str(outcomes["c1"].error)
    assert "'c1'" in error
    assert cause in error
    assert [outcomes[f"c{i}"].value for i in (0, 2, 3)] == [0, 2, 3]


def test_an_answer_that_cannot_be_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segflow.execution.worker._SECONDS_TO_DIE", 0.1)
    [outcome] = run_jobs(unreadable, [Job("c", ())], processes=1)
    assert "its answer could not be read" in str(outcome.error)


def test_a_worker_that_leaves_is_named() -> None:
    [outcome] = run_jobs(leave, [Job("c", (7,))], processes=1)
    assert "exit code 7" in str(outcome.error)


def test_a_job_whose_worker_died_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [outcome] = run_jobs(die_once, [Job("c", (str(tmp_path / "died"),))], processes=2)
    assert outcome.value == "done"
    assert "'c' is tried again alone" in caplog.text


def test_too_much_memory_is_tried_again_and_then_told() -> None:
    [outcome] = run_jobs(ask_for_too_much, [Job("c", ())], processes=1)
    assert "memory" in str(outcome.error)


def test_jobs_run_together_only_within_the_memory_limit(tmp_path: Path) -> None:
    sizes = {"small": 2, "large": 9, "huge": 20, "tiny": 1}
    tenth = int(0.8 * memory_bytes()) // 10
    jobs = [Job(name, (str(tmp_path), name, 0.3), memory_bytes=size * tenth) for name, size in sizes.items()]
    assert len(list(run_jobs(note_times, jobs, processes=4))) == 4
    spans = {name: span(tmp_path, name) for name in sizes}
    for moment in [start for start, _ in spans.values()]:
        together = [name for name, (start, end) in spans.items() if start <= moment < end]
        assert together == ["huge"] or sum(sizes[name] for name in together) <= 10
    assert min(spans, key=lambda name: spans[name][0]) == "huge"


def test_log_records_of_workers_reach_the_parent(caplog: pytest.LogCaptureFixture) -> None:
    [outcome] = run_jobs(speak, [Job("c", ())], processes=1)
    assert outcome.error is None
    assert "spacing looks odd: 3" in caplog.text


def test_a_result_that_cannot_travel_is_an_error() -> None:
    [outcome] = run_jobs(make_lambda, [Job("c", ())], processes=1)
    assert "cannot travel" in str(outcome.error)


def test_leaving_the_loop_ends_the_workers(tmp_path: Path) -> None:
    before = children(os.getpid())  # such as a process that reads images for another test
    jobs = [Job(f"c{i}", (str(tmp_path), f"c{i}", 0.0 if i == 0 else 60.0)) for i in range(2)]
    outcomes = run_jobs(note_times, jobs, processes=2)
    assert next(outcomes).name == "c0"
    outcomes.close()
    assert not list(tmp_path.glob("c1.end"))
    assert children(os.getpid()) == before


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from segflow.execution.jobs import Job\n"
        "from segflow.execution.parallel import run_jobs\n"
        "import math\n"
        "print([o.value for o in run_jobs(math.sqrt, [Job('c', (9.0,))], processes=1)])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout == "[3.0]\n"


def test_a_function_of_the_main_script_is_refused_with_the_reason(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from segflow.execution.jobs import Job\n"
        "from segflow.execution.parallel import run_jobs\n"
        "def own(): return 1\n"
        "print([o.error for o in run_jobs(own, [Job('c', ())], processes=1)])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240, check=True)
    assert "did not reach its worker" in done.stdout


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, number: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\n"
        "from segflow.execution.jobs import Job\n"
        "from segflow.execution.parallel import run_jobs\n"
        "list(run_jobs(time.sleep, [Job(str(i), (100,)) for i in range(2)], processes=2))\n"
    )
    with subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL) as parent:
        workers = wait_for(lambda: found if len(found := children(parent.pid)) == 2 else [])
        time.sleep(0.3)
        parent.send_signal(number)
        parent.wait(timeout=120)
    assert wait_for(lambda: not any(alive(pid) for pid in workers))


def wait_for(condition):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    return condition()


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_negative_number_of_processes_is_refused() -> None:
    with pytest.raises(SegflowError, match="negative"):
        list(run_jobs(square, [], processes=-1))


def test_the_machine_has_processors_and_memory() -> None:
    assert 1 <= processor_count() <= (os.cpu_count() or 1)
    assert memory_bytes() > 2**28
