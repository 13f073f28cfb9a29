"""A job of a sweep that wants several devices runs as a process of its own.

Lightning starts the ranks of a run by starting its command line again. Within a sweep that would be the whole sweep
in each rank; as a single run in a process of its own it is just that run. Signals are passed on, so that nothing goes
on after its parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

from segflow.apps import _invocation
from segflow.core.errors import SegflowError
from segflow.execution.interrupts import SIGINT_EXIT, SIGTERM_EXIT

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
OF_A_RANK = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")


def run_alone(command: str) -> None:
    """Run this job's overrides as a single run in a child process, and wait for it.

    Raises:
        SegflowError: The child failed.
        SystemExit: It was ended by a signal that was sent to this process.
    """
    environment = {key: value for key, value in os.environ.items() if key not in OF_A_RANK}
    arguments = [sys.executable, "-m", "segflow.apps.main", command, *_invocation.child_arguments()]
    child = subprocess.Popen(arguments, env=environment, start_new_session=True)
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise SystemExit(128 + received[-1])
    if code in (SIGINT_EXIT, SIGTERM_EXIT):  # the signal was sent to the child
        raise SystemExit(code)
    if code:
        raise SegflowError(f"a job of the sweep ended with exit code {code}", fix="Its own message stands above.")
