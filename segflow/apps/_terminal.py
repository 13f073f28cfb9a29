"""Output for the user: a progress bar on a terminal, plain lines elsewhere, and tables on stdout."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from segflow.execution.progress import Progress as Reporter
from segflow.execution.progress import ProgressEvent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LINE_EVERY_SECONDS = 15.0
"""Seconds between progress lines if the output is not a terminal. A line also marks the end of a stage."""

logger = logging.getLogger(__name__)


def cases(count: int) -> str:
    """``1 case``, ``2 cases``, …"""
    return "1 case" if count == 1 else f"{count} cases"


@contextmanager
def progress() -> Iterator[Reporter]:
    """Yield a function that reports progress: it draws a bar on a terminal and logs lines elsewhere."""
    if sys.stderr.isatty():
        with _bars() as bars:
            yield _BarReporter(bars)
    else:
        yield _LineReporter()


def _bars() -> Progress:
    from rich.console import Console  # slow to load, and seldom needed, as in table
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[name]}", markup=False),  # a case may be named [1]
        console=Console(stderr=True),
    )


class _BarReporter:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, tuple[TaskID, float, int]] = {}

    def __call__(self, event: ProgressEvent) -> None:
        if event.stage not in self._tasks:
            task = self._bars.add_task(event.stage, total=event.total, name="", rate="")
            self._tasks[event.stage] = (task, time.monotonic(), event.done)
        task, started, before = self._tasks[event.stage]
        rate = _rate(event.done - before, started)
        self._bars.update(task, completed=event.done, total=event.total, name=event.name, rate=rate)


class _LineReporter:
    def __init__(self) -> None:
        self._stages: dict[str, tuple[float, float, int]] = {}

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        started, last, before = self._stages.get(event.stage, (now, now, event.done))
        finished = event.done >= event.total > 0
        if finished or now - last >= LINE_EVERY_SECONDS:
            words = (event.stage, f"{event.done}/{event.total}", _rate(event.done - before, started), event.name)
            logger.info("%s", " ".join(word for word in words if word))
            last = now
        self._stages[event.stage] = (started, last, before)


def _rate(done: int, started: float) -> str:
    """The rate of finished items as text. Items that were already done at the start do not count."""
    seconds = time.monotonic() - started
    if not done or seconds <= 0:
        return ""
    return f"{done / seconds:.1f}/s" if done >= seconds else f"{seconds / done:.1f} s each"


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
    console.print(title, style="bold", soft_wrap=True, highlight=False)
    console.print(drawn)


def _is_sentence(value: object) -> bool:
    return isinstance(value, str) and " " in value


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def say(text: str) -> None:
    """Print a command's result to stdout, without delay also to files and pipes."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
