"""Calls of libraries that a damaged file may crash or hang, in a separate process whose death costs one call.

The process stays alive for the next call, so that it starts only once. Calls from several threads get a process each.
A worker process (`parallel`) makes the call itself: its death costs one job, and its parent reports it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.system_errors import system_error
from segflow.execution.jobs import Job, Outcome
from segflow.execution.machine import granted_threads, memory_limit
from segflow.execution.worker import Worker, is_worker

try:
    import resource
except ImportError:  # Windows, where only the parent enforces the time limit
    resource = None  # type: ignore[assignment]

GRACE_SECONDS = 30.0
"""Seconds after which the parent ends a process that did not end itself at its time limit."""
MOST_IDLE = 2
"""Number of processes kept for later calls; usually no more threads read images at once."""
ADDRESSES = "/proc/self/statm"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one call.

    Attributes:
        seconds: Elapsed time.
        memory_bytes: Memory in addition to what the process held before.
    """

    seconds: float
    memory_bytes: int


class TimeLimitError(SegflowError):
    """A call took longer than its time limit."""


@dataclass(slots=True)
class _Idle:
    """Processes that wait for a call, with the queues of their messages."""

    owner: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    workers: list[tuple[Worker, queue.SimpleQueue[Any]]] = field(default_factory=list)


_idle = _Idle()
_within = threading.local()


def call_apart(function: Callable[..., Any], arguments: tuple[Any, ...], *, subject: str, limits: Limits) -> Any:
    """Call a function in a separate process, so that a crash or a hang costs only this call.

    Args:
        function: A function of an importable module, like the classes of arguments and value. Its log messages are
            logged in this process.
        arguments: Positional arguments. They and the value travel between processes.
        subject: Name for errors, such as a file.
        limits: A call that takes more is ended.

    Returns:
        The function's value.

    Raises:
        SegflowError: The function raised it, or the call crashed, hung, or asked for too much memory.
    """
    if is_within_call():
        return function(*arguments)
    if is_worker():
        return _limited(function, arguments, subject, limits)
    worker, events = _take()
    finished = False
    try:
        worker.send(Job(subject, (function, arguments, subject, limits)), _answer)
        value = _wait(worker, events, subject, limits)
        finished = True
    finally:
        _put_back(worker, events, finished)
    if isinstance(value, SegflowError):
        raise value
    return value


def is_within_call() -> bool:
    """Whether this code runs within `call_apart`, in any process."""
    return getattr(_within, "call", False)


def _take() -> tuple[Worker, queue.SimpleQueue[Any]]:
    global _idle
    if _idle.owner != os.getpid():  # after a fork: the processes belong to the parent
        _idle = _Idle()
    with _idle.lock:
        while _idle.workers:
            worker, events = _idle.workers.pop()
            if worker.process.poll() is None and worker.memory_limit == memory_limit():
                return worker, events
            worker.stop()
    events = queue.SimpleQueue()
    try:
        return Worker(granted_threads(), events), events
    except OSError as error:
        raise system_error(error, "cannot start a process to read in") from error


def _put_back(worker: Worker, events: queue.SimpleQueue[Any], finished: bool) -> None:
    """Keep a process for the next call. End it if its call did not finish, or if enough processes wait."""
    with _idle.lock:
        if finished and len(_idle.workers) < MOST_IDLE:
            worker.job = None
            _idle.workers.append((worker, events))
            return
    worker.stop()


def _wait(worker: Worker, events: queue.SimpleQueue[Any], subject: str, limits: Limits) -> Any:
    too_long = TimeLimitError(
        f"reading {subject} took longer than its time limit of {limits.seconds:.0f} s, and was ended",
        fix="The file may be damaged, or its disk does not respond.",
    )
    while True:
        try:
            _, message = events.get(timeout=limits.seconds + GRACE_SECONDS)
        except queue.Empty:
            raise too_long from None
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif isinstance(message, Outcome) and message.error is None:
            return message.value
        elif message is None and worker.exit_code() == -getattr(signal, "SIGALRM", 0):
            raise too_long
        else:
            reason = message.error if isinstance(message, Outcome) else worker.cause_of_death()
            raise SegflowError(f"reading {subject} failed: {reason}")


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...], subject: str, limits: Limits) -> Any:
    """Run in the separate process. Errors are returned as values, so that they keep all their parts."""
    try:
        return _limited(function, arguments, subject, limits)
    except SegflowError as error:
        return error


def _limited(function: Callable[..., Any], arguments: tuple[Any, ...], subject: str, limits: Limits) -> Any:
    _within.call = True
    try:
        with _time_limit(limits.seconds), _memory_limit(limits.memory_bytes):
            return function(*arguments)
    except MemoryError:
        raise SegflowError(
            f"reading {subject} took more memory than its header suggests",
            expected=f"at most {limits.memory_bytes / 2**30:.2g} GiB",
            fix="The file may be damaged.",
        ) from None
    finally:
        _within.call = False


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End this process at its time limit. Unlike an exception, a library cannot catch that."""
    if sys.platform == "win32":
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def _memory_limit(memory_bytes: int) -> Iterator[None]:
    """Limit the address space to the present one and ``memory_bytes`` more."""
    try:
        with open(ADDRESSES, encoding="ascii") as stream:
            now = int(stream.read().split()[0]) * resource.getpagesize()
    except (OSError, AttributeError):  # only Linux reports and enforces this limit
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    ceilings = [limit for limit in (soft, hard, now + memory_bytes) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(ceilings), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
