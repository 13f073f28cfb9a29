"""Sweep jobs with several devices, each run in its own process.

Lightning starts the ranks of a run with the run's command line. Within a sweep each rank would start the whole sweep.
In a separate process with a single run it starts only that run. Signals are passed on, so that no child outlives its
parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType

from segflow.apps import _invocation
from segflow.apps._job_results import VALUE_FILE, kept
from segflow.core.errors import SegflowError
from segflow.execution import screen
from segflow.execution.interrupts import EARLY_WARNINGS, SIGINT_EXIT, SIGTERM_EXIT

PASSED_ON = (signal.SIGTERM, signal.SIGINT, *EARLY_WARNINGS[:1])
OF_A_TEAM = ("TORCHELASTIC_RUN_ID", "NODE_RANK")
"""Environment variables that say that other processes run the same sweep, so that their jobs train together."""
OF_A_RANK = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")


def run_alone(command: str) -> float | None:
    """Run this job's overrides as a single run in a child process, and wait for it.

    Returns:
        The value that the command returned there; None if it returned none.

    Raises:
        SegflowError: The child failed.
        SystemExit: A signal to this process ended it.
    """
    left_out = () if set(OF_A_TEAM) & os.environ.keys() else OF_A_RANK
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    arguments = [sys.executable, "-m", "segflow.apps.main", command, *_invocation.child_arguments()]
    with tempfile.TemporaryDirectory(prefix="segflow-") as folder:
        file = Path(folder) / "value.json"
        with screen.paused():  # the child draws
            code = _wait_for(
                subprocess.Popen(arguments, env={**environment, VALUE_FILE: str(file)}, start_new_session=True)
            )
        value, *_ = kept(file)
    if code in (SIGINT_EXIT, SIGTERM_EXIT):  # the signal was sent to the child
        raise SystemExit(code)
    if code:
        raise SegflowError(f"a job of the sweep ended with exit code {code}", fix="Its own message is above.")
    return value


def send(child: subprocess.Popen[bytes], number: int) -> None:
    """Pass a signal on. On Windows a child hears Ctrl-C by itself, and nothing else, so that it is ended."""
    if os.name != "nt":
        child.send_signal(number)
    elif number != signal.SIGINT:
        child.terminate()


def _wait_for(child: subprocess.Popen[bytes]) -> int:
    """Exit code of the child. Signals to this process are passed on, and end it after the child."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        send(child, number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise SystemExit(128 + received[-1])
    return code
