"""What is drawn in place at the foot of the terminal, while lines of the log pass above it.

A process draws one area, on stderr, and only where a person looks at a terminal. Whoever has something to show adds it
to the area. The cursor stays visible all the time, so that a process that is killed leaves a usable terminal.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.live import Live

REFRESH_PER_SECOND = 2.0

_NOTHING = ("", "0", "false")

_drawn: list[Callable[[], Any]] = []
_live: Live | None = None
_streams: tuple[Any, Any] = (None, None)
_lines_of_parent = 0
"""In a forked process: lines that the parent has drawn, and erases when it draws again."""


def is_drawn() -> bool:
    """Whether stderr is a terminal that can be drawn on: not a file or pipe, not ``TERM=dumb``, and no CI."""
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    ci = os.environ.get("CI", "").lower() not in _NOTHING
    return sys.stderr.isatty() and not dumb and not ci


@contextmanager
def drawing(draw: Callable[[], Any]) -> Iterator[None]:
    """Show something below what is already shown, while the block runs. Nothing of it is left afterwards.

    Args:
        draw: Returns what rich can draw. It is called several times a second, from another thread.
    """
    _drawn.append(draw)
    if len(_drawn) == 1:
        _start()
    try:
        yield
    finally:
        _drawn.remove(draw)
        if not _drawn:
            _stop()


@contextmanager
def paused() -> Iterator[None]:
    """Clear the area while the block writes to the terminal by itself."""
    was_drawn = _live is not None
    _stop()
    try:
        yield
    finally:
        if was_drawn and _drawn:
            _start()


def write_line(text: str) -> None:
    """Write a line to stderr, above the area."""
    live = _live
    if live is None:
        drawn = _lines_of_parent
        sys.stderr.write(f"\n{text}" + "\n" * drawn if drawn else f"{text}\n")
        sys.stderr.flush()
        return
    from rich.text import Text

    live.console.print(Text(text), soft_wrap=True)  # the terminal wraps, so that a copied line is whole


class LogHandler(logging.Handler):
    """Writes messages of the log to stderr, above what is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        try:
            write_line(self.format(record))
        except Exception:
            self.handleError(record)


def _start() -> None:
    global _live, _streams
    from rich.console import Console, Group
    from rich.live import Live

    class _SteadyConsole(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    _streams = (sys.stdout, sys.stderr)
    _live = Live(
        console=_SteadyConsole(stderr=True, markup=False, highlight=False),
        get_renderable=lambda: Group(*[draw() for draw in list(_drawn)]),
        refresh_per_second=REFRESH_PER_SECOND,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        vertical_overflow="crop",
    )
    _live.start()


def _stop() -> None:
    global _live
    live, _live = _live, None
    if live is not None:
        live.stop()


def _leave() -> None:
    """In a forked process: draw nothing, and write without the locks that a thread of the parent may hold."""
    global _live, _lines_of_parent
    if _live is not None:
        shape = getattr(_live._live_render, "_shape", None)
        _lines_of_parent = shape[1] if shape else 0
        _live = None
        sys.stdout, sys.stderr = _streams
    _drawn.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave)
