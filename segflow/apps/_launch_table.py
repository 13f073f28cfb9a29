"""The states of launched jobs: a table that is drawn in place on a terminal, and lines now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from segflow.apps._launched_child import JobEnd
from segflow.core.wording import duration_text, some
from segflow.execution import screen
from segflow.execution.job_state import JobState, read_state

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

WAITING, RUNNING, STOPPED, DONE, FAILED = "waiting", "running", "stopped", "done", "failed"
COLUMNS = ("state", "at", "Dice", "time", "left")
FIRST = (RUNNING, FAILED, STOPPED, WAITING, DONE)
"""The order in which jobs are shown if there is not room for all."""

READ_EVERY_SECONDS = 5.0
"""Seconds between two looks at what running jobs tell."""
LINE_EVERY_SECONDS = 60.0
"""Seconds between two lines about all jobs if nothing is drawn."""
LISTED = 4
"""Number of running jobs that such a line describes."""

OTHER_LINES = 7
"""Lines of the terminal that the rows leave for titles and for the bar of a job in this process."""
FEWEST_ROWS = 3
LONGEST_NAME = 60

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Row:
    state: str = WAITING
    since: float | None = None
    seconds: float | None = None
    note: str = ""
    told: JobState | None = None
    told_at: float = 0.0
    dice: float | None = None

    @property
    def took(self) -> float | None:
        """Seconds since it began, or that it took."""
        return time.monotonic() - self.since if self.since is not None else self.seconds

    @property
    def stands(self) -> str:
        """``epoch 3/10``, ``validate 2/4``; empty before it is known, and when it has ended."""
        if self.told is None or self.state != RUNNING:
            return ""
        stage = "epoch" if self.told.stage == "train" else self.told.stage
        return f"{stage} {self.told.done}/{self.told.total}" if self.told.total else stage

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts of `COLUMNS`."""
        dice = "" if self.dice is None else f"{self.dice:.4f}"
        return self.state, self.stands, dice, "" if self.took is None else duration_text(self.took), self.rest

    @property
    def rest(self) -> str:
        if self.told is None or self.told.rest_seconds is None or self.state != RUNNING:
            return ""
        return duration_text(max(0.0, self.told.rest_seconds - (time.monotonic() - self.told_at)))


class States:
    """Shows the states of jobs while the block runs.

    Args:
        names: Names of the jobs.
        files: Name of a job → the file into which it writes its state; None for jobs of this process, see `tells`.
    """

    def __init__(self, names: Sequence[str], files: Mapping[str, Path] | None = None) -> None:
        self._rows = {name: _Row() for name in names}
        self._files = files
        self._drawn = ExitStack()
        self._is_drawn = False
        self._read_at = self._line_at = time.monotonic()

    def __enter__(self) -> States:
        self._is_drawn = screen.is_drawn()
        if self._is_drawn:
            self._drawn.enter_context(screen.drawing(lambda: _Fitting(self._table)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drawn.close()
        for row in self._rows.values():
            if row.state == RUNNING:  # a signal ended it
                row.state, row.seconds, row.since = STOPPED, row.took, None
        if self._is_drawn:
            with screen.paused():
                _print(self._table(len(self._rows)))

    def runs(self, name: str) -> None:
        """A job has begun."""
        self._change(name, _Row(RUNNING, since=time.monotonic()))

    def again(self, name: str) -> None:
        """A failed job waits for another attempt."""
        self._change(name, _Row(WAITING, note="once more"))

    def ends(self, end: JobEnd) -> None:
        """A job has ended."""
        row = self._rows[end.name]
        state = DONE if end.error is None else FAILED
        note = _first_line(end.error) if end.error is not None else _result(end.value)
        self._change(end.name, _Row(state, seconds=row.took, note=note, dice=row.dice))

    def tells(self, name: str, state: JobState) -> None:
        """A running job tells where it stands."""
        row = self._rows[name]
        if state != row.told:
            row.told, row.told_at = state, time.monotonic()
        row.dice = row.dice if state.dice is None else state.dice

    def look(self) -> None:
        """Read what running jobs tell, if that was some seconds ago, and tell it in a line if nothing is drawn."""
        now = time.monotonic()
        if self._files is None or now - self._read_at < READ_EVERY_SECONDS:
            return
        running = [name for name, row in self._rows.items() if row.state == RUNNING]
        for name in running:
            state = read_state(self._files[name])
            if state is not None:
                self.tells(name, state)
        self._read_at = time.monotonic()
        if not self._is_drawn and running and now - self._line_at >= LINE_EVERY_SECONDS:
            self._line_at = now
            logger.info("%s. %s", self._counts(), some(map(self._words, running), LISTED, separator="; "))

    def _words(self, name: str) -> str:
        row = self._rows[name]
        dice = "" if row.dice is None else f"Dice {row.dice:.4f}"
        left = f"{row.rest} left" if row.rest else ""
        return f"{name}: {', '.join(filter(None, (row.stands, dice, left))) or row.state}"

    def _change(self, name: str, row: _Row) -> None:
        self._rows[name] = row
        if not self._is_drawn:
            took = f" after {duration_text(row.seconds)}" if row.seconds is not None else ""
            logger.info("%s: %s%s%s", name, row.state, took, f": {row.note}" if row.note else "")

    def _counts(self) -> str:
        return _counted(row.state for row in self._rows.values())

    def _table(self, most: int) -> Table:
        from rich.table import Table
        from rich.text import Text

        rows = list(self._rows.items())
        if len(rows) > most:
            rows = sorted(rows, key=lambda item: FIRST.index(item[1].state))[:most]
        left = Counter(row.state for row in self._rows.values())
        left.subtract(row.state for _, row in rows)
        more = f"and {left.total()} more: {_counted(left.elements())}" if left.total() else None
        jobs = "1 job" if len(self._rows) == 1 else f"{len(self._rows)} jobs"
        table = Table(box=None, title=f"{jobs}: {self._counts()}", title_justify="left", caption=more, pad_edge=False)
        table.caption_justify = "left"
        cells = [row.cells for _, row in rows]
        table.add_column("job", max_width=LONGEST_NAME)
        for number, name in enumerate(COLUMNS):  # names give way before these
            width = max(len(name), *(len(cell[number]) for cell in cells))
            table.add_column(name, no_wrap=True, min_width=width)
        table.add_column("")
        for (name, row), (state, *others) in zip(rows, cells, strict=True):
            shown = Text(state, "red" if state == FAILED else "")
            table.add_row(_short(name), shown, *others, _short(row.note))
        return table


class _Fitting:
    """A table with as many rows as the terminal has room for."""

    def __init__(self, table: Callable[[int], Table]) -> None:
        self._table = table

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Table]:
        yield self._table(max(FEWEST_ROWS, console.size.height - OTHER_LINES))


def _short(text: str) -> Text:
    """A text in one line, which is cut where there is no room for it. It may hold [brackets]."""
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ellipsis")


def _print(table: Table) -> None:
    from rich.console import Console

    Console(stderr=True, markup=False, highlight=False).print(table)


def _counted(states: Any) -> str:
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in FIRST if counts[state])


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _result(value: float | None) -> str:
    return "" if value is None else f"result {value:.4f}"
