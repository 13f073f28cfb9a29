"""Ctrl-C and SIGTERM during a command. Imports nothing heavy, since it is loaded before everything else."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from segflow.execution.interrupts import EARLY_WARNINGS, SIGTERM_EXIT, Terminated, exit_code_of_interrupt


@contextmanager
def told_in_one_line(command: str) -> Iterator[None]:
    """While the block runs, both signals end it like an exception, with one line and exit code 130 or 143.

    Within a job of SLURM, so do SIGUSR1 and SIGUSR2, by which it warns of the time limit: they would kill the process.

    Raises:
        SystemExit: A signal arrived.
    """
    hears = threading.current_thread() is threading.main_thread()
    heard = [signal.SIGTERM, *(EARLY_WARNINGS if "SLURM_JOB_ID" in os.environ else ())]
    before = {number: signal.getsignal(number) for number in heard}
    for number, handler in before.items():
        if hears and handler == signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        yield
    except KeyboardInterrupt as error:
        code = exit_code_of_interrupt(error)
        if hears:  # a second signal does not wait for threads that are still ending
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        what = "SIGTERM" if code == SIGTERM_EXIT else "Ctrl-C"
        sys.stderr.write(f"segflow {command}: ended by {what}; to continue, run the same command again\n")
        raise SystemExit(code) from None
    finally:
        for number, handler in before.items():
            if hears and signal.getsignal(number) is _end:
                signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise Terminated
