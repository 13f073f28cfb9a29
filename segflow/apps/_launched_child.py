"""One job of a launcher: a child process with a command line of segflow, its log, its value, and its end.

It is loaded in the worker of any engine, and therefore needs nothing but Python.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from segflow.apps._job_results import VALUE_FILE, kept
from segflow.apps._processes import OF_A_RANK, PASSED_ON, send
from segflow.apps.main import LAUNCHED_BY
from segflow.core.errors import SegflowError
from segflow.execution.interrupts import EARLY_WARNINGS, SIGINT_EXIT, SIGTERM_EXIT
from segflow.execution.job_state import STATE_FILE

PASSED_VARIABLES = ("PYTHONPATH", "SEGFLOW_", "nnUNet_", "OMP_NUM_THREADS")
"""Beginnings of the environment variables that a job on another machine gets from the process that launches it."""

SENT = (signal.SIGINT, signal.SIGTERM, *EARLY_WARNINGS)
"""Signals that a person or a batch system sends."""

POLL_SECONDS = 0.1
GRACE_SECONDS = 60.0
"""How long a job may take to write its checkpoint after SIGTERM, before it is killed."""

LONGEST_CAUSE = 20
"""Largest number of lines of a job's own error message."""

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class JobEnd:
    """The end of a job.

    Attributes:
        name: Name of the job.
        error: Why it failed, in the job's own words; None for a job that is done.
        value: The value that the command returned; None if it returns none.
        failed: Case → message, for the cases that the job could not do.
        warnings: What the job warned of.
    """

    name: str
    error: str | None = None
    value: float | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Child:
    """A job, ready to be started on any machine that sees the same folders.

    Attributes:
        name: Name of the job.
        arguments: The command and its arguments.
        log: File for everything that the job says. Its start means that the job is running.
        folder: The working folder.
        environment: Variables for the job, beside those of the worker.
    """

    name: str
    arguments: tuple[str, ...]
    log: Path
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def value_file(self) -> Path:
        """The file for the job's value."""
        return self.log.with_suffix(".json")

    @property
    def state_file(self) -> Path:
        """The file into which the job writes where it stands."""
        return self.log.with_suffix(".state")


class RunningChild:
    """A child process.

    Args:
        child: The job.
        environment: Variables that the engine adds, such as the GPU of the job.

    Raises:
        SegflowError: This machine does not see the folders of the job.
    """

    def __init__(self, child: Child, environment: Mapping[str, str] | None = None) -> None:
        self._child = child
        for folder in (child.folder, child.log.parent):
            if not folder.is_dir():
                raise SegflowError(
                    f"there is no folder {folder} on {platform.node()}",
                    fix="All machines must see the same folders under the same paths.",
                )
        own = {key: value for key, value in os.environ.items() if key not in OF_A_RANK}
        if own.get("SLURM_NTASKS") == "1":
            del own["SLURM_NTASKS"]  # Lightning would wait for ranks from SLURM instead of starting its own
        places = {
            VALUE_FILE: str(child.value_file),
            STATE_FILE: str(child.state_file),
            LAUNCHED_BY: str(os.getpid()),
        }
        for file in (child.value_file, child.state_file):
            file.unlink(missing_ok=True)
        with child.log.open("ab") as log:
            self._begin = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "segflow", *child.arguments],
                cwd=child.folder,
                env={**own, **child.environment, **(environment or {}), **places},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # signals of the terminal reach it through its parent only
            )

    def end(self) -> JobEnd | None:
        """The end of the job; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        error = f"{self._cause(code)} (log: {self._child.log})" if code else None
        return JobEnd(self._child.name, error, *kept(self._child.value_file))

    @property
    def was_interrupted(self) -> bool:
        """Whether a signal ended the job that a person or a batch system sends."""
        return self._process.poll() in (SIGINT_EXIT, SIGTERM_EXIT, *(-number for number in SENT))

    def signal(self, number: int) -> None:
        """Pass a signal on to the job."""
        send(self._process, number)

    def stop(self) -> None:
        """End the job: SIGTERM, on which a training keeps its last checkpoint; SIGKILL if that takes too long."""
        self._process.terminate()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            if sys.platform != "win32":
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
            self._process.wait()

    def _cause(self, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}{'; out of memory?' if name == 'SIGKILL' else ''}"
        if code in (SIGINT_EXIT, SIGTERM_EXIT):
            return f"ended by {'Ctrl-C' if code == SIGINT_EXIT else 'SIGTERM'}"
        with self._child.log.open("rb") as log:
            log.seek(self._begin)
            lines = log.read().decode(errors="replace").splitlines()
        own = f"segflow {self._child.arguments[0]}"
        starts = [number for number, line in enumerate(lines) if line.startswith(own) and ": " in line]
        if starts:
            return "\n".join(lines[starts[-1] :][:LONGEST_CAUSE]).partition(": ")[2]
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return f"exit code {code}: {last}"


def run_child(
    child: Child, environment: Mapping[str, str] | None = None, stop: threading.Event | None = None
) -> JobEnd:
    """Run a job to its end. It raises nothing, so that the failure of one job ends no other.

    Args:
        child: The job.
        environment: Variables that the engine adds.
        stop: Ends the job once it is set.
    """
    if stop is not None and stop.is_set():
        return JobEnd(child.name, "not started")
    try:
        running = RunningChild(child, environment)
    except (OSError, SegflowError) as error:
        return JobEnd(child.name, str(error))
    return wait_for(running, stop)


def wait_for(running: RunningChild, stop: threading.Event | None = None) -> JobEnd:
    """Wait for the end of a job, and pass on signals to this process."""
    before = {}
    if threading.current_thread() is threading.main_thread():

        def pass_on(number: int, frame: FrameType | None) -> None:
            running.signal(number)

        before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        while (end := running.end()) is None:
            if stop is not None and stop.is_set():
                running.stop()
            time.sleep(POLL_SECONDS)
    except BaseException:
        running.stop()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return end


def passed_variables() -> dict[str, str]:
    """Variables of this process that its jobs get on any machine."""
    return {
        key: value
        for key, value in os.environ.items()
        if key.startswith(PASSED_VARIABLES) and key not in (VALUE_FILE, STATE_FILE, LAUNCHED_BY)
    }


def end_with_parent() -> None:
    """Within a job: end like after SIGTERM when the launching process is gone, even if it was killed (Linux).

    Processes that the job starts itself are not concerned.
    """
    parent = os.environ.pop(LAUNCHED_BY, None)
    if parent is None or sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before the line above
        os.kill(os.getpid(), signal.SIGTERM)
