"""Jobs on worker processes, which never hang and report why they fail.

A worker is a new Python process that talks to its parent through its standard streams. It does not import the caller's
main script, which therefore needs no ``__main__`` guard. Its death is noticed at once as the end of its stream, and it
ends itself when its parent is gone. Jobs start within a memory limit, largest first. If a worker dies, its job is
reported with the likely cause and tried once more, alone.

The pools of ``concurrent.futures`` and loky cannot take this over: the death of one worker fails every job of theirs,
those that run beside it too, without saying which job it was. The former also runs the caller's main script again.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.core.system_errors import system_error
from segflow.execution.jobs import Job, Outcome, run_job
from segflow.execution.machine import (
    SHARE_OF_MEMORY,
    held_bytes,
    memory_bytes,
    memory_limit,
    no_room,
    processor_count,
    threads_granted,
)
from segflow.execution.worker import LESS_AT_ONCE, Worker

_log = logging.getLogger(__name__)

LARGEST_WORKER = 400 * 2**20
"""Most memory in bytes of a worker that has no job yet."""


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[Job],
    *,
    processes: int,
) -> Iterator[Outcome]:
    """Call ``function`` once for each job, and yield outcomes as jobs finish.

    Jobs run together only while they and their processes fit into four fifths of the machine's memory; one that exceeds
    it runs alone. Where the user set a limit (`memory_limited`), they stay below it with this process, and a job that
    exceeds it is refused before any starts.

    Args:
        function: A function of an importable module (not of the main script), like the classes of its arguments.
        jobs: The jobs. An exception ends only its own job, and its message becomes the outcome's error. A full disk is
            the exception, since all others would fail too.
        processes: Largest number of workers; 0 runs the jobs one by one in this process.

    Yields:
        One outcome for each job, in the order in which they finish. Leaving the loop early ends the workers.

    Raises:
        NoSpaceError: A job met a full or read-only disk. No further job is started.
        SegflowError: No worker process could be started.
    """
    if processes < 0:
        raise SegflowError("the number of processes cannot be negative", found=processes, expected="0 or more")
    jobs, refused = _fitting(jobs, processes)
    yield from refused
    if processes == 0:
        for job in jobs:
            try:
                with threads_granted(processor_count()):  # nothing else of this command runs meanwhile
                    outcome = run_job(job.name, function, job.arguments)
            except MemoryError:
                outcome = Outcome(job.name, None, f"'{job.name}' asked for more memory than there is")
            yield outcome
        return
    pool = _Pool(function, min(processes, len(jobs)))
    try:
        yield from pool.run(jobs)
    finally:
        pool.stop()


def _bytes_for_workers() -> int:
    """Memory for the jobs and their processes together, beside this process."""
    limit = memory_limit()
    return int(SHARE_OF_MEMORY * memory_bytes()) if limit is None else limit - held_bytes()


def _worker_bytes() -> int:
    """Memory of a worker without its job. It imports no more than this process, which found the job's function."""
    return min(held_bytes(), LARGEST_WORKER)


def room_for_job(processes: int) -> int:
    """Bytes that a job may take if it runs alone, beside Python and libraries.

    Args:
        processes: As in `run_jobs`.
    """
    limit = memory_limit()
    if limit is None:
        return int(SHARE_OF_MEMORY * memory_bytes()) - (_worker_bytes() if processes else 0)
    return limit - held_bytes() - (_worker_bytes() if processes else 0)


def _fitting(jobs: Sequence[Job], processes: int) -> tuple[Sequence[Job], list[Outcome]]:
    """The jobs that fit into the user's limit of memory, and the refusals of the others."""
    limit = memory_limit()
    if limit is None:
        return jobs, []
    base = held_bytes() + (_worker_bytes() if processes else 0)
    fitting, refused = [], []
    for job in jobs:
        if job.memory_bytes and (wanted := base + job.memory_bytes) > limit:
            error = no_room(wanted, limit, "this case", found=job.sizes, case=job.name)
            refused.append(Outcome(job.name, None, str(error)))
        else:
            fitting.append(job)
    return fitting, refused


class _Pool:
    def __init__(self, function: Callable[..., Any], processes: int) -> None:
        self._function = function
        self._processes = processes
        self._memory_limit = _bytes_for_workers()
        self._worker_bytes = _worker_bytes()
        self._threads = max(1, processor_count() // max(1, processes))
        self._events: queue.SimpleQueue[tuple[Worker, Any]] = queue.SimpleQueue()
        self._workers: list[Worker] = []

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        waiting = sorted(jobs, key=lambda job: -job.memory_bytes)
        again: list[Job] = []
        for outcome in self._run_all(waiting):
            if isinstance(outcome, Outcome):
                yield outcome
            else:
                job, cause = outcome
                _log.warning("'%s' is tried again alone when the others are done: %s", job.name, cause)
                again.append(job)
        self._processes = 1
        for outcome in self._run_all(again):
            if isinstance(outcome, Outcome):
                yield outcome
            else:
                job, cause = outcome
                yield Outcome(job.name, None, f"'{job.name}' failed twice, the second time alone: {cause}")

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def _run_all(self, waiting: list[Job]) -> Iterator[Outcome | tuple[Job, str]]:
        """Outcomes; or a job with the cause of its worker's death."""
        while waiting or any(worker.job for worker in self._workers):
            self._admit(waiting)
            worker, message = self._events.get()
            if isinstance(message, logging.LogRecord):
                logging.getLogger(message.name).handle(message)
                continue
            job, worker.job = worker.job, None
            if message is None:
                cause = worker.cause_of_death()
                self._workers.remove(worker)
                worker.stop()
                if job is not None:
                    yield job, cause
            elif isinstance(message, MemoryError):
                if job is not None:
                    yield job, f"it asked for more memory than there is. {LESS_AT_ONCE}"
            elif isinstance(message, NoSpaceError):
                raise message
            else:
                self._admit(waiting)  # before the caller looks at the outcome, which may take a while
                yield message

    def _admit(self, waiting: list[Job]) -> None:
        """Start the largest jobs that fit. One job always runs, however large."""
        while waiting:
            busy = [worker.job for worker in self._workers if worker.job is not None]
            if len(busy) >= self._processes:
                return
            workers = max(len(self._workers), len(busy) + 1)  # a job starts a worker if none is idle
            used = sum(job.memory_bytes for job in busy) + workers * self._worker_bytes
            fitting = (
                index
                for index, job in enumerate(waiting)
                if not busy or not job.memory_bytes or used + job.memory_bytes <= self._memory_limit
            )
            index = next(fitting, None)
            if index is None:
                return
            worker = self._idle_worker()
            if worker is None:
                return
            job = waiting.pop(index)
            worker.send(job, self._function)

    def _idle_worker(self) -> Worker | None:
        """An idle worker or a new one; None if the system grants no more workers."""
        for worker in self._workers:
            if worker.job is None:
                return worker
        try:
            worker = Worker(self._threads, self._events)
        except OSError as error:
            if not self._workers:
                raise system_error(error, "cannot start a worker process") from error
            _log.warning("no more than %d worker processes: %s", len(self._workers), error.strerror)
            self._processes = len(self._workers)
            return None
        self._workers.append(worker)
        return worker
