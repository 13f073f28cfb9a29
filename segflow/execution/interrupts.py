"""Interrupts by a person or a batch system: Ctrl-C (SIGINT) and SIGTERM."""

from __future__ import annotations

import signal

SIGINT_EXIT, SIGTERM_EXIT = 130, 143

EARLY_WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Signals by which SLURM warns of a time limit. Windows has none of them."""


class Terminated(KeyboardInterrupt):
    """SIGTERM. It ends the program as Ctrl-C does: unfinished files are removed, workers end."""


def exit_code_of_interrupt(error: BaseException) -> int | None:
    """The exit code that a shell expects after an interrupt; None if the error is not one.

    Lightning turns an interrupt into a `SystemExit` of its own, whose context is the interrupt.
    """
    cause = error.__context__ if isinstance(error, SystemExit) else error
    if not isinstance(cause, KeyboardInterrupt):
        return None
    return SIGTERM_EXIT if isinstance(cause, Terminated) else SIGINT_EXIT
