"""Progress of a command: bars that are drawn in place on a terminal, and a line now and then elsewhere.

Either way the end of each work is a line of the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from segflow.core.wording import duration_text, moment_text
from segflow.execution import job_state, screen
from segflow.execution.progress import Progress, ProgressEvent, TrainingEvent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

LINE_EVERY_SECONDS = 15.0
"""Seconds between two lines of a work on cases if nothing is drawn."""
TRAINING_LINE_EVERY_SECONDS = 60.0
"""The same for a training, whose epochs have lines of their own."""

WIDEST_BAR = 40
NAME_WIDTH = 30
NARROWEST_BAR = 8

logger = logging.getLogger(__name__)


@contextmanager
def shown(*, drawn: bool) -> Iterator[Progress]:
    """Yield what shows events of progress while the block runs. If it is not ``drawn``, it is told in lines."""
    if drawn and screen.is_drawn():
        bars = _Bars()
        with screen.drawing(bars.draw):
            yield bars
    else:
        yield _Lines()


class _Stage:
    """One work: its newest event, and its speed since it began here."""

    def __init__(self, event: ProgressEvent) -> None:
        self._before = event.done
        self._started = self.told = time.monotonic()
        self.take(event)

    def take(self, event: ProgressEvent) -> None:
        """Something more is done."""
        self.event = event
        self._at = time.monotonic()

    @property
    def is_over(self) -> bool:
        return self.event.done >= self.event.total > 0

    @property
    def seconds(self) -> float:
        return self._at - self._started

    @property
    def count(self) -> str:
        """``3/40``; without a total only what is done."""
        return f"{self.event.done}/{self.event.total}" if self.event.total else str(self.event.done)

    @property
    def rate(self) -> str:
        """``2.1/s`` or ``3.4 s each``; empty before something is done. What an earlier start has done has no speed."""
        done, seconds = self.event.done - self._before, self.seconds
        if not done or seconds <= 0:
            return ""
        return f"{done / seconds:.1f}/s" if done >= seconds else f"{seconds / done:.1f} s each"

    @property
    def rest(self) -> float | None:
        """Estimated seconds that are left."""
        since = time.monotonic() - self._at
        if isinstance(self.event, TrainingEvent):
            left = self.event.rest_seconds
            return None if left is None else max(0.0, left - since)
        done = self.event.done - self._before
        if not done or not self.event.total:
            return None
        return max(0.0, self.seconds / done * (self.event.total - self.event.done) - since)

    @property
    def failed(self) -> str:
        return f"{self.event.failed} failed" if self.event.failed else ""

    def line(self) -> str:
        """Where the work stands, as a line of the log."""
        if isinstance(self.event, TrainingEvent):
            return _training_line(self.event)
        left = "" if self.rest is None else f"{duration_text(self.rest)} left"
        return ", ".join(filter(None, (f"{self.event.stage} {self.count}", self.rate, left, self.failed)))

    def end_line(self) -> str:
        """How the work ended: how many, how long, how many failed."""
        took = f" in {duration_text(self.seconds)}" if self.event.done > self._before else ""
        return ", ".join(filter(None, (f"{self.event.stage} {self.count}{took}", self.rate, self.failed)))


class _Stages:
    """The works that are going on. One begins with its first event, and ends when all is done."""

    def __init__(self) -> None:
        self.going_on: dict[str, _Stage] = {}

    def __call__(self, event: ProgressEvent) -> None:
        stage = self.going_on.get(event.stage)
        if stage is None or event.done < stage.event.done:
            for name in [name for name, other in self.going_on.items() if not other.event.total]:
                self._ends(name)  # one without a total is over when the next one begins
            stage = self.going_on[event.stage] = _Stage(event)
        stage.take(event)
        job_state.tell(event, stage.rest)
        if stage.is_over and not isinstance(event, TrainingEvent):  # a training has told its end itself
            self._ends(event.stage)
        else:
            self.told(stage)

    def told(self, stage: _Stage) -> None:
        """A work goes on."""

    def _ends(self, name: str) -> None:
        logger.info("%s", self.going_on.pop(name).end_line())


class _Lines(_Stages):
    def told(self, stage: _Stage) -> None:
        now = time.monotonic()
        is_training = isinstance(stage.event, TrainingEvent)
        if now - stage.told >= (TRAINING_LINE_EVERY_SECONDS if is_training else LINE_EVERY_SECONDS):
            stage.told = now
            logger.info("%s", stage.line())


class _Bars(_Stages):
    def draw(self) -> RenderableType:
        """What the terminal shows now. Another thread calls it."""
        from rich.console import Group

        stages = list(self.going_on.values())
        trainings = [
            _TrainingBar(stage.event, stage.rest) for stage in stages if isinstance(stage.event, TrainingEvent)
        ]
        others = [stage for stage in stages if not isinstance(stage.event, TrainingEvent)]
        return Group(*trainings, _bars_of(others))


def _bars_of(stages: list[_Stage]) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    for _ in range(5):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for stage in stages:
        event = stage.event
        bar = ProgressBar(event.total or None, event.done, width=WIDEST_BAR // 2, pulse=not event.total)
        left = "" if stage.rest is None else f"{duration_text(stage.rest)} left"
        rest = ", ".join(filter(None, (left, stage.failed)))
        table.add_row(event.stage, bar, stage.count, stage.rate, rest, Text(event.name))
    return table


class _TrainingBar:
    """Two lines: where the epoch stands, and when the training ends and where its time goes."""

    def __init__(self, event: TrainingEvent, rest: float | None) -> None:
        self._event, self._rest = event, rest

    def __rich_console__(self, console: Any, options: Any) -> Iterator[RenderableType]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        event = self._event
        values = "  ".join(_values(event))
        begin = f"epoch {event.epoch}/{event.epochs}"
        room = options.max_width - len(begin) - len(values) - 4
        width = max(NARROWEST_BAR, min(WIDEST_BAR, room))
        line = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            line.add_column(no_wrap=True, overflow="crop")
        line.add_row(begin, ProgressBar(event.steps, event.step, width=width), values)
        yield line
        below = " | ".join(filter(None, (_rest(self._rest), _shares(event))))
        yield Text(below, style="dim", no_wrap=True, overflow="ellipsis")


def _training_line(event: TrainingEvent) -> str:
    begin = f"epoch {event.epoch}/{event.epochs}"
    return " | ".join(filter(None, (begin, *_values(event), _rest(event.rest_seconds))))


def _values(event: TrainingEvent) -> list[str]:
    """The values of the present step."""
    what = "validation" if event.validates else "step"
    values = [f"{what} {event.step:{len(str(event.steps))}}/{event.steps}"]
    if event.loss is not None:
        values.append(f"loss {event.loss:.4f}")
    if event.step_seconds is not None:
        values.append(f"{event.step_seconds:#.3g} s/step")
    return values


def _rest(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration_text(seconds)} left, ends {moment_text(seconds)}"


def _shares(event: TrainingEvent) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in event.shares.items())
