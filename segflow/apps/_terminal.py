"""Output for the user: a progress bar on a terminal, plain lines elsewhere, and tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from segflow.apps import _shown_progress
from segflow.execution import screen
from segflow.execution.progress import Progress

if TYPE_CHECKING:
    from rich.table import Table

LONGEST_NUMBER = 30
"""Cells of a table with more characters are sentences, which may be wrapped."""


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
    """Print a table to stdout.

    If that is not a terminal, the table is as wide as its content. On a terminal sentences are wrapped. A table without
    sentences that is too wide goes on below, with its first column again, since cut numbers say nothing.
    """
    from rich.console import Console

    texts = [[_text(value) for value in row] for row in rows]
    console = Console(markup=False)  # "HD95 [mm]" is text, not a style
    parts = [tuple(range(len(columns)))]
    if not sys.stdout.isatty():
        widest = Console(width=10_000, markup=False).measure(_drawn(columns, texts, parts[0])).maximum
        console = Console(width=max(80, widest), markup=False)
    elif all(len(text) <= LONGEST_NUMBER for row in texts for text in row[1:]):
        parts = _parts([max(map(len, column)) for column in zip(columns, *texts, strict=True)], console.width)
    with screen.paused():
        console.print(title, style="bold", soft_wrap=True, highlight=False)
        for part in parts:
            console.print(_drawn(columns, texts, part))


def _drawn(columns: Sequence[str], texts: Sequence[Sequence[str]], part: Sequence[int]) -> Table:
    """A table of some of the columns."""
    from rich.table import Table

    drawn = Table()
    for place in part:
        numbers = place > 0 and not any(" " in row[place] for row in texts)
        drawn.add_column(columns[place], justify="right" if numbers else "left", no_wrap=not sys.stdout.isatty())
    for row in texts:
        drawn.add_row(*(row[place] for place in part))
    return drawn


def _parts(widths: Sequence[int], width: int) -> list[tuple[int, ...]]:
    """The columns of each table that is at most ``width`` wide, if columns have these widths, a frame and spaces."""
    parts: list[tuple[int, ...]] = [(0,)]
    used = widths[0] + 4
    for place, needed in enumerate(widths[1:], start=1):
        if used + needed + 3 > width and len(parts[-1]) > 1:
            parts.append((0,))
            used = widths[0] + 4
        parts[-1] += (place,)
        used += needed + 3
    return parts


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def say(text: str) -> None:
    """Print a command's result to stdout, without delay also to files and pipes."""
    with screen.paused():
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
