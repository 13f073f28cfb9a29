"""Calls of libraries that a damaged file may crash or hang: in a process whose death costs one call.

The process lives on for the next call, so that it starts once; calls from several threads get one each. A process
that was started for jobs (`parallel`) makes the call itself: its own death costs one job, and is told by its parent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.system_errors import system_error
from segflow.execution.machine import granted_threads
from segflow.execution.parallel import Job, Outcome, Worker, is_worker

try:
    import resource
except ImportError:  # Windows, where only the parent keeps the time
    resource = None  # type: ignore[assignment]

GRACE_SECONDS = 30.0
"""The process ends itself when its time is over; its parent ends it so much later, if it cannot."""
MOST_IDLE = 2
"""Processes that are kept for calls to come; images are read by no more threads at a time as a rule."""
ADDRESSES = "/proc/self/statm"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may cost.

    Attributes:
        seconds: By the clock.
        memory_bytes: More than the process held before.
    """

    seconds: float
    memory_bytes: int


@dataclass(slots=True)
class _Idle:
    """Processes that wait for a call, with the queue of their messages."""

    owner: int = field(default_factory=os.getpid)
    lock: threading.Lock = field(default_factory=threading.Lock)
    workers: list[tuple[Worker, queue.SimpleQueue[Any]]] = field(default_factory=list)


_idle = _Idle()
_within = threading.local()


def call_apart(function: Callable[..., Any], arguments: tuple[Any, ...], *, subject: str, limits: Limits) -> Any:
    """Call a function where its crash, or its never ending, costs nothing but this call.

    Args:
        function: Must live in a module that can be imported, as must the classes of arguments and value. What it logs
            is logged here.
        arguments: Positional; they and the value travel between processes.
        subject: What errors name, such as a file.
        limits: A call that takes more is ended.

    Returns:
        Its value.

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
    """Whether this is being executed by `call_apart`, in whatever process."""
    return getattr(_within, "call", False)


def _take() -> tuple[Worker, queue.SimpleQueue[Any]]:
    global _idle
    if _idle.owner != os.getpid():  # a fork: the processes are its parent's
        _idle = _Idle()
    with _idle.lock:
        while _idle.workers:
            worker, events = _idle.workers.pop()
            if worker.process.poll() is None:
                return worker, events
            worker.stop()
    events = queue.SimpleQueue()
    try:
        return Worker(granted_threads(), events), events
    except OSError as error:
        raise system_error(error, "cannot start a process to read in") from error


def _put_back(worker: Worker, events: queue.SimpleQueue[Any], finished: bool) -> None:
    """Keep a process for the next call; end it where its call did not end well, or enough of them wait."""
    with _idle.lock:
        if finished and len(_idle.workers) < MOST_IDLE:
            worker.job = None
            _idle.workers.append((worker, events))
            return
    worker.stop()


def _wait(worker: Worker, events: queue.SimpleQueue[Any], subject: str, limits: Limits) -> Any:
    too_long = SegflowError(
        f"reading {subject} took longer than its time limit of {limits.seconds:.0f} s, and was ended",
        fix="The file may be damaged, or the disk that it lies on does not answer.",
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
    """In the process apart: an error is a value, which keeps all its parts on its way."""
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
            f"reading {subject} took more memory than its header lets expect",
            expected=f"at most {limits.memory_bytes / 2**30:.2g} GiB",
            fix="The file may be damaged.",
        ) from None
    finally:
        _within.call = False


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End this process when the time is over: no library can stop that, as it could an exception."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def _memory_limit(memory_bytes: int) -> Iterator[None]:
    """No more address space than now, and so much."""
    try:
        with open(ADDRESSES, encoding="ascii") as stream:
            now = int(stream.read().split()[0]) * resource.getpagesize()
    except (OSError, AttributeError):  # only Linux tells, and keeps, this limit
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    ceilings = [limit for limit in (soft, hard, now + memory_bytes) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(ceilings), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
