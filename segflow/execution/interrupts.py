"""Ends that a person or a batch system asks for: Ctrl-C (SIGINT) and SIGTERM."""

from __future__ import annotations

SIGINT_EXIT, SIGTERM_EXIT = 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends what is being done as Ctrl-C does: files that are half written go, workers end."""


def exit_code_of_interrupt(error: BaseException) -> int | None:
    """The exit code that a shell expects after such an end; None where the error is none.

    Lightning turns an interrupt into a `SystemExit` of its own, whose context is the interrupt.
    """
    cause = error.__context__ if isinstance(error, SystemExit) else error
    if not isinstance(cause, KeyboardInterrupt):
        return None
    return SIGTERM_EXIT if isinstance(cause, Terminated) else SIGINT_EXIT
