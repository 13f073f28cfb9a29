"""The states of launched jobs: a table on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from segflow.apps._launched_child import JobEnd

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
MOST_ROWS = 30
"""Largest number of rows; the title counts all jobs."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Row:
    state: str = WAITING
    since: float | None = None
    seconds: float | None = None
    note: str = ""


class States:
    """Shows the states of jobs while the block runs.

    Args:
        names: Names of the jobs.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._rows = {name: _Row() for name in names}
        self._live: Live | None = None

    def __enter__(self) -> States:
        if sys.stderr.isatty():
            self._live = Live(
                get_renderable=self._table, console=Console(stderr=True, markup=False), refresh_per_second=2
            )
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def runs(self, name: str) -> None:
        """A job has begun."""
        self._change(name, _Row(RUNNING, since=time.monotonic()))

    def again(self, name: str) -> None:
        """A failed job waits for another attempt."""
        self._change(name, _Row(WAITING, note="once more"))

    def ends(self, end: JobEnd) -> None:
        """A job has ended."""
        since = self._rows[end.name].since
        seconds = None if since is None else time.monotonic() - since
        state = DONE if end.error is None else FAILED
        self._change(end.name, _Row(state, seconds=seconds, note=_first_line(end.error)))

    def _change(self, name: str, row: _Row) -> None:
        self._rows[name] = row
        if self._live is None:
            took = f" after {row.seconds:.0f} s" if row.seconds is not None else ""
            logger.info("%s: %s%s%s", name, row.state, took, f": {row.note}" if row.note else "")

    def _table(self) -> Table:
        counts = Counter(row.state for row in self._rows.values())
        title = ", ".join(f"{counts[state]} {state}" for state in (RUNNING, WAITING, DONE, FAILED) if counts[state])
        table = Table("Job", "State", "Seconds", "", title=f"{len(self._rows)} jobs: {title}", title_justify="left")
        order = [FAILED, RUNNING, WAITING, DONE]
        shown = sorted(self._rows.items(), key=lambda item: order.index(item[1].state))[:MOST_ROWS]
        for name, row in ((name, row) for name, row in self._rows.items() if (name, row) in shown):
            seconds = time.monotonic() - row.since if row.since is not None else row.seconds
            table.add_row(name, row.state, "" if seconds is None else f"{seconds:.0f}", row.note)
        return table


def _first_line(text: str | None) -> str:
    return text.splitlines()[0] if text else ""
