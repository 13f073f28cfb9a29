"""Output for the user: a progress bar on a terminal, plain lines elsewhere, and tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager

from segflow.apps import _shown_progress
from segflow.execution import screen
from segflow.execution.progress import Progress


def cases(count: int) -> str:
    """``1 case``, ``2 cases``, …"""
    return "1 case" if count == 1 else f"{count} cases"


def progress(*, drawn: bool = True) -> AbstractContextManager[Progress]:
    """Yield a function that reports progress: it draws a bar on a terminal and logs lines elsewhere.

    Args:
        drawn: Whether it may draw.
    """
    return _shown_progress.shown(drawn=drawn)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to stdout. If that is not a terminal, the table is as wide as its content."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table()
    for index, column in enumerate(columns):
        numbers = index > 0 and not any(_is_sentence(row[index]) for row in rows)
        drawn.add_column(column, justify="right" if numbers else "left", no_wrap=not sys.stdout.isatty())
    for row in rows:
        drawn.add_row(*(_text(value) for value in row))
    console = Console(markup=False)  # "HD95 [mm]" is text, not a style
    if not sys.stdout.isatty():
        widest = Console(width=10_000, markup=False).measure(drawn).maximum
        console = Console(width=max(80, widest), markup=False)
    with screen.paused():
        console.print(title, style="bold", soft_wrap=True, highlight=False)
        console.print(drawn)


def _is_sentence(value: object) -> bool:
    return isinstance(value, str) and " " in value


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def say(text: str) -> None:
    """Print a command's result to stdout, without delay also to files and pipes."""
    with screen.paused():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
