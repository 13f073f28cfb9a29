"""Threads for one computation. numpy, the compressor and the readers of files let them run in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from segflow.execution.machine import granted_threads

Part = TypeVar("Part")
Result = TypeVar("Result")


def for_each(function: Callable[[Part], object], parts: Sequence[Part], threads: int | None = None) -> None:
    """Call a function for each part, on several threads.

    An exception of a call ends the rest.

    Args:
        function: What to call.
        parts: Its arguments.
        threads: Threads at most; None takes those that were granted, see `granted_threads`.
    """
    threads = min(granted_threads() if threads is None else threads, len(parts))
    if threads <= 1:
        for part in parts:
            function(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(function, parts):
            pass  # raises the exception of a thread


@contextmanager
def meanwhile(function: Callable[[], Result], threads: int | None = None) -> Iterator[Callable[[], Result]]:
    """Call a function on another thread while the block runs, if there may be more than one.

    Args:
        function: What to call.
        threads: Threads at most; None takes those that were granted, see `granted_threads`.

    Yields:
        A function that gives the result, or raises what the call raised. Without another thread it makes the call.
    """
    if (granted_threads() if threads is None else threads) <= 1:
        yield function
        return
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(function).result
