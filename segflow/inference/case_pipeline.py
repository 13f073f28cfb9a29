"""Reading, computing and writing of many cases at the same time, with only a few in memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.core.system_errors import system_error
from segflow.execution.progress import Progress, ProgressEvent

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PredictReport:
    """The result for many cases.

    Attributes:
        done: Ids of the cases that were predicted.
        skipped: Ids of the cases whose outputs were done before.
        failed: Id → message.
    """

    done: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed


@dataclass(frozen=True, slots=True)
class Steps(Generic[Item, Given, Result]):
    """The steps for each case.

    Attributes:
        stage: Name of the work, for progress.
        read: Case → input of the computation.
        compute: Case and input → result.
        write: Writes the result of a case.
        is_done: Id → whether the outputs of the case exist.
    """

    stage: str
    read: Callable[[Item], Given]
    compute: Callable[[Item, Given], Result]
    write: Callable[[Item, Result], None]
    is_done: Callable[[str], bool]


class Threads(Protocol):
    """Number of threads that read and write, and whether finished cases are skipped."""

    resume: bool
    readers: int
    writers: int


def overlapping(
    cases: Mapping[str, Item], steps: Steps[Item, Given, Result], *, readers: int = 1, writers: int = 1
) -> Iterator[tuple[str, str | None]]:
    """Read, compute and write every case. The three steps work on different cases at the same time.

    Reading and writing run on threads, since numpy, torch, zlib and ITK let other threads run. Computing runs on the
    caller's thread, in the order of the cases. At most ``readers + 1`` cases wait to be computed and ``writers + 1`` to
    be written, so memory does not grow with the number of cases. A failure ends only its own case, unless the disk is
    full, when no other case could be written.

    Args:
        cases: Id → case.
        steps: The steps for each case.
        readers, writers: Number of threads of each kind.

    Yields:
        Id of each case when it is written or has failed, with the message of a failure or None.

    Raises:
        NoSpaceError: A case met a full or read-only disk.
        DeviceLostError: A GPU failed, so that no other case could be computed.
    """
    waiting = deque(cases.items())
    reading: deque[tuple[str, Item, Future[Given]]] = deque()
    writing: deque[tuple[str, Future[None]]] = deque()
    read_pool, write_pool = ThreadPoolExecutor(readers, "read"), ThreadPoolExecutor(writers, "write")
    try:
        while waiting or reading:
            while waiting and len(reading) <= readers:
                name, case = waiting.popleft()
                reading.append((name, case, read_pool.submit(steps.read, case)))
            name, case, given = reading.popleft()
            try:
                result = steps.compute(case, given.result())
            except Exception as error:  # any failure of one case, so that the others are done
                yield name, _message(name, error)
                continue
            finally:
                del given  # frees the memory of the input
            while len(writing) > writers:
                yield _written(*writing.popleft())
            writing.append((name, write_pool.submit(steps.write, case, result)))
            del result
        while writing:
            yield _written(*writing.popleft())
    finally:  # also if the caller stops early: nothing new starts, and cases that are being written are finished
        read_pool.shutdown(wait=False, cancel_futures=True)
        write_pool.shutdown(wait=True, cancel_futures=True)


def run_cases(
    steps: Steps[Item, Given, Result], cases: Mapping[str, Item], settings: Threads, progress: Progress
) -> PredictReport:
    """Run the steps for all cases. Finished cases are skipped, and failures are logged.

    Args:
        steps: The steps for each case.
        cases: Id → case, in order.
        settings: See `Threads`.
        progress: Called after each case.

    Raises:
        NoSpaceError: The disk is full or read-only. The error names the first case that met it.
    """
    skipped = dict.fromkeys(name for name in cases if settings.resume and steps.is_done(name))
    waiting = {name: case for name, case in cases.items() if name not in skipped}
    done: list[str] = []
    failed: dict[str, str] = {}
    progress(ProgressEvent(steps.stage, "", len(skipped), len(cases)))
    for name, error in overlapping(waiting, steps, readers=settings.readers, writers=settings.writers):
        if error is None:
            done.append(name)
        else:
            failed[name] = error
            logger.error("%s", error)
        ended = len(skipped) + len(done) + len(failed)
        progress(ProgressEvent(steps.stage, name, ended, len(cases), len(failed)))
    return PredictReport(tuple(done), tuple(skipped), failed)


def _written(name: str, future: Future[None]) -> tuple[str, str | None]:
    try:
        future.result()
    except Exception as error:
        return name, _message(name, error)
    return name, None


def _message(name: str, error: Exception) -> str:
    """Message about a failed case. An error that concerns all cases is raised."""
    if isinstance(error, OSError):
        logger.debug("the system refused something to case '%s'", name, exc_info=error)
        error = system_error(error)
    if isinstance(error, NoSpaceError):
        raise error.of_case(name)
    from segflow.network.devices import lost_device  # slow: torch

    lost = lost_device(error, "the prediction")
    if lost is not None:
        raise lost.of_case(name) from error
    if isinstance(error, SegflowError):
        text = str(error)
    else:
        logger.debug("unexpected failure of case '%s'", name, exc_info=error)
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if f"case '{name}'" in text else f"case '{name}': {text}"
