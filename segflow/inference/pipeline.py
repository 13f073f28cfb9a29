"""Reading, computing and writing of many cases at the same time, with few of them in memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from segflow.core.errors import SegflowError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ended(Generic[Item]):
    """One item that went through, or did not.

    Attributes:
        item: As it was given.
        error: Why it failed; None where it did not.
    """

    item: Item
    error: str | None


def overlapping(
    items: Sequence[Item],
    read: Callable[[Item], Given],
    compute: Callable[[Item, Given], Result],
    write: Callable[[Item, Result], None],
    *,
    readers: int = 1,
    writers: int = 1,
) -> Iterator[Ended[Item]]:
    """Read, compute and write every item; the three stages work on different items at the same time.

    Reading and writing run on threads: their time is spent in numpy, torch, zlib and ITK, which let other threads run.
    Computing runs on the caller's thread, in the order of the items. At most ``readers + 1`` items wait to be
    computed and ``writers + 1`` to be written, so memory does not grow with their number. A failure ends its item
    only.

    Args:
        items: What to do.
        read: item → what to compute with.
        compute: item and what was read → what to write.
        write: Of item and result.
        readers, writers: Threads of each stage.

    Yields:
        Each item when it has been written or has failed.
    """
    waiting = deque(items)
    reading: deque[tuple[Item, Future[Given]]] = deque()
    writing: deque[tuple[Item, Future[None]]] = deque()
    read_pool, write_pool = ThreadPoolExecutor(readers, "read"), ThreadPoolExecutor(writers, "write")
    try:
        while waiting or reading:
            while waiting and len(reading) <= readers:
                item = waiting.popleft()
                reading.append((item, read_pool.submit(read, item)))
            item, given = reading.popleft()
            try:
                result = compute(item, given.result())
            except Exception as error:  # whatever one case meets, the others shall be done
                yield Ended(item, _message(item, error))
                continue
            finally:
                del given  # with what was read
            while len(writing) > writers:
                yield _written(*writing.popleft())
            writing.append((item, write_pool.submit(write, item, result)))
            del result
        while writing:
            yield _written(*writing.popleft())
    finally:  # also when the caller stops early: nothing is begun any more, what is being written is finished
        read_pool.shutdown(wait=False, cancel_futures=True)
        write_pool.shutdown(wait=True, cancel_futures=True)


def _written(item: Item, future: Future[None]) -> Ended[Item]:
    try:
        future.result()
    except Exception as error:
        return Ended(item, _message(item, error))
    return Ended(item, None)


def _message(item: object, error: Exception) -> str:
    if isinstance(error, SegflowError):
        return str(error)
    logger.debug("unexpected failure of %s", item, exc_info=error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
