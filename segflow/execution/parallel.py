"""Jobs on worker processes, which never hang and report why they fail.

A worker is a new Python process that talks to its parent through its standard streams. It does not import the caller's
main script, which therefore needs no ``__main__`` guard. Its death is noticed at once as the end of its stream, and it
ends itself when its parent is gone. Jobs start within a memory limit, largest first. If a worker dies, its job is
reported with the likely cause and tried once more, alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from logging.handlers import QueueHandler
from typing import IO, Any

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.core.system_errors import system_error
from segflow.execution.machine import THREADS_VARIABLE, out_of_memory_kills, processor_count

_log = logging.getLogger(__name__)

# Matrix products get one thread per library call. If other processes compete for the processors, threads that share
# small products wait for each other far longer than they compute.
_SINGLE_THREADED = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_THREADED = (THREADS_VARIABLE, "OMP_NUM_THREADS", "BLOSC_NTHREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")

_SECONDS_TO_DIE = 5.0

_LESS_AT_ONCE = "Use fewer processes or a lower memory limit."

_worker_process = False

_CAUSES = {
    "SIGKILL": f"most likely the system ran out of memory and killed it. {_LESS_AT_ONCE}",
    "SIGBUS": "most likely shared memory (/dev/shm) or a disk is full. In Docker, start with a larger --shm-size.",
    "SIGSEGV": "a C library crashed; the file that it was reading may be damaged.",
    "SIGABRT": "a C library gave up; the file that it was reading may be damaged.",
    "SIGALRM": "a C library took longer than its time limit; the file that it was reading may be damaged.",
    "SIGTERM": "something outside ended it, such as the batch system's time limit.",
}


@dataclass(frozen=True, slots=True)
class Job:
    """One call to make.

    Attributes:
        name: Name in messages, such as the case's id.
        arguments: Positional arguments. They travel to another process, so keep them small.
        memory_bytes: Memory that it needs at its peak, for the memory limit.
    """

    name: str
    arguments: tuple[Any, ...]
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        name: The job's name.
        value: Value of the function; None after an error.
        error: The error in one line, for the user; None after success.
    """

    name: str
    value: Any
    error: str | None = None


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[Job],
    *,
    processes: int,
    memory_limit_bytes: int | None = None,
) -> Iterator[Outcome]:
    """Call ``function`` once for each job, and yield outcomes as jobs finish.

    Args:
        function: A function of an importable module (not of the main script), like the classes of its arguments.
        jobs: The jobs. An exception ends only its own job, and its message becomes the outcome's error. A full disk is
            the exception, since all others would fail too.
        processes: Largest number of workers; 0 runs the jobs one by one in this process.
        memory_limit_bytes: Jobs run together only while the sum of their ``memory_bytes`` stays below it. A job that
            exceeds it runs alone. None sets no limit.

    Yields:
        One outcome for each job, in the order in which they finish. Leaving the loop early ends the workers.

    Raises:
        NoSpaceError: A job met a full or read-only disk. No further job is started.
        SegflowError: No worker process could be started.
    """
    if processes < 0:
        raise SegflowError("the number of processes cannot be negative", found=processes, expected="0 or more")
    if processes == 0:
        for job in jobs:
            try:
                yield _run(job.name, function, job.arguments)
            except MemoryError:
                yield Outcome(job.name, None, f"'{job.name}' asked for more memory than there is")
        return
    pool = _Pool(function, min(processes, len(jobs)), memory_limit_bytes)
    try:
        yield from pool.run(jobs)
    finally:
        pool.stop()


class Worker:
    """One worker process, and the thread that listens to it.

    Args:
        threads: Number of threads that it may use.
        events: Queue for pairs of this worker and one of its messages, or None when it has ended.
    """

    def __init__(self, threads: int, events: queue.SimpleQueue[tuple[Worker, Any]]) -> None:
        paths = [str(path) for path in sys.path]
        level = logging.getLogger().getEffectiveLevel()
        code = f"import sys; sys.path[:] = {paths!r}; from segflow.execution.parallel import serve; serve({level})"
        environment = os.environ | dict.fromkeys(_SINGLE_THREADED, "1")
        environment |= {name: _at_most(threads, os.environ.get(name)) for name in _THREADED}
        # In its own session Ctrl-C does not reach it. The parent gets the signal and ends the worker.
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self.job: Job | None = None
        self.kills_before = 0
        self._events = events
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, job: Job, function: Callable[..., Any]) -> None:
        """Give it a job."""
        # Pickled twice, so that a worker which cannot import the function can still name the job.
        payload = pickle.dumps((job.name, pickle.dumps((function, job.arguments))))
        self.job = job
        self.kills_before = out_of_memory_kills()
        stream = self.process.stdin
        with contextlib.suppress(OSError):  # it is already dead, which its listener reports
            stream.write(payload)  # type: ignore[union-attr]
            stream.flush()  # type: ignore[union-attr]

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # closing flushes data that a dead worker did not read
                stream.close()  # type: ignore[union-attr]

    def exit_code(self) -> int | None:
        """Exit code after its last message; None if it is alive and only its message cannot be read."""
        try:
            return self.process.wait(_SECONDS_TO_DIE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return None

    def cause_of_death(self) -> str:
        """Why it ended, as a text for the user."""
        code = self.exit_code()
        if code is None:
            return "its answer could not be read"
        if code >= 0:
            return f"its process ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        if name == "SIGKILL" and out_of_memory_kills() > self.kills_before:
            return f"its process was killed because memory ran out. {_LESS_AT_ONCE}"
        return f"its process died of {name}: {_CAUSES.get(name, 'the cause is unknown.')}"

    def _listen(self) -> None:
        while True:
            try:
                message = pickle.load(self.process.stdout)  # type: ignore[arg-type]
            except Exception:  # the stream ended, perhaps within a message
                message = None
            self._events.put((self, message))
            if message is None:
                return


def _at_most(threads: int, wish: str | None) -> str:
    """The number of threads, or a smaller one that the user set in the environment."""
    return str(min(threads, int(wish))) if wish and wish.isdigit() and int(wish) > 0 else str(threads)


class _Pool:
    def __init__(self, function: Callable[..., Any], processes: int, memory_limit: int | None) -> None:
        self._function = function
        self._processes = processes
        self._memory_limit = memory_limit
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
                    yield job, f"it asked for more memory than there is. {_LESS_AT_ONCE}"
            elif isinstance(message, NoSpaceError):
                raise message
            else:
                yield message

    def _admit(self, waiting: list[Job]) -> None:
        """Start the largest jobs that fit. One job always runs, however large."""
        while waiting:
            busy = [worker.job for worker in self._workers if worker.job is not None]
            if len(busy) >= self._processes:
                return
            used = sum(job.memory_bytes for job in busy)
            limit = self._memory_limit
            fitting = (
                index
                for index, job in enumerate(waiting)
                if limit is None or not busy or used + job.memory_bytes <= limit
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


def is_worker() -> bool:
    """Whether this process is a worker, so that its death costs only one job."""
    return _worker_process


def serve(log_level: int) -> None:
    """Main loop of a worker: jobs arrive on standard input, outcomes leave on the former standard output."""
    global _worker_process
    _worker_process = True
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # text that a library prints must not mix with the messages
    sender = _Sender(outgoing)
    logging.getLogger().addHandler(QueueHandler(sender))  # type: ignore[arg-type]
    logging.getLogger().setLevel(log_level)
    logging.captureWarnings(True)
    jobs: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(incoming, jobs), daemon=True).start()
    while True:
        name, payload = jobs.get()
        try:
            function, arguments = pickle.loads(payload)
        except Exception as error:
            sender.put_nowait(Outcome(name, None, f"'{name}' did not reach its worker: {_describe(error)}"))
            continue
        try:
            sender.put_nowait(_run(name, function, arguments))
        except MemoryError:
            sender.put_nowait(MemoryError())
        except NoSpaceError as error:
            sender.put_nowait(error)


def _receive(incoming: IO[bytes], jobs: queue.SimpleQueue[tuple[str, bytes]]) -> None:
    """Listen to the parent, also while a job runs, and end the process when the parent is gone."""
    while True:
        try:
            jobs.put(pickle.load(incoming))
        except Exception:
            os._exit(0)


class _Sender:
    """Writes messages to the parent's stream. It has the method that logging's `QueueHandler` calls."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def put_nowait(self, message: Any) -> None:
        try:
            data = pickle.dumps(message, protocol=5)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            name = getattr(message, "name", "")
            data = pickle.dumps(Outcome(name, None, f"'{name}': its result cannot travel: {_describe(error)}"))
        with self._lock:
            self._stream.write(data)
            self._stream.flush()


def _run(name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    try:
        return Outcome(name, function(*arguments))
    except (NoSpaceError, MemoryError):
        raise
    except SegflowError as error:
        return Outcome(name, None, str(error))
    except OSError as error:
        _log.debug("'%s' failed", name, exc_info=True)
        refused = system_error(error)
        if isinstance(refused, NoSpaceError):
            raise refused.of_case(name) from error
        return Outcome(name, None, f"'{name}': {refused}")
    except Exception as error:
        _log.debug("'%s' failed", name, exc_info=True)
        return Outcome(name, None, f"'{name}': {_describe(error)}")


def _describe(error: Exception) -> str:
    """Type, message and place of an unexpected exception."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
