"""Worker processes: the parent's side, and the worker's main loop."""

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
from collections.abc import Callable
from logging.handlers import QueueHandler
from typing import IO, Any

from segflow.core.errors import NoSpaceError
from segflow.execution.jobs import Job, Outcome, describe, run_job
from segflow.execution.machine import THREADS_VARIABLE, limit_of_child, memory_limit, out_of_memory_kills

# Matrix products get one thread per library call. If other processes compete for the processors, threads that share
# small products wait for each other far longer than they compute.
_SINGLE_THREADED = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_THREADED = (THREADS_VARIABLE, "OMP_NUM_THREADS", "BLOSC_NTHREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_SECONDS_TO_DIE = 5.0
LESS_AT_ONCE = "Use fewer processes or a lower memory limit."

_worker_process = False

_CAUSES = {
    "SIGKILL": f"most likely the system ran out of memory and killed it. {LESS_AT_ONCE}",
    "SIGBUS": "most likely shared memory (/dev/shm) or a disk is full. In Docker, start with a larger --shm-size.",
    "SIGSEGV": "a C library crashed; the file that it was reading may be damaged.",
    "SIGABRT": "a C library gave up; the file that it was reading may be damaged.",
    "SIGALRM": "a C library took longer than its time limit; the file that it was reading may be damaged.",
    "SIGTERM": "something outside ended it, such as the batch system's time limit.",
}


class Worker:
    """One worker process, and the thread that listens to it.

    Args:
        threads: Number of threads that it may use.
        events: Queue for pairs of this worker and one of its messages, or None when it has ended.
    """

    def __init__(self, threads: int, events: queue.SimpleQueue[tuple[Worker, Any]]) -> None:
        paths = [str(path) for path in sys.path]
        level = logging.getLogger().getEffectiveLevel()
        code = f"import sys; sys.path[:] = {paths!r}; from segflow.execution.worker import serve; serve({level})"
        environment = os.environ | dict.fromkeys(_SINGLE_THREADED, "1")
        environment |= {name: _at_most(threads, os.environ.get(name)) for name in _THREADED}
        self.memory_limit = memory_limit()
        environment |= limit_of_child()
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
            return f"its process was killed because memory ran out. {LESS_AT_ONCE}"
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
            sender.put_nowait(Outcome(name, None, f"'{name}' did not reach its worker: {describe(error)}"))
            continue
        try:
            sender.put_nowait(run_job(name, function, arguments))
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
            data = pickle.dumps(Outcome(name, None, f"'{name}': its result cannot travel: {describe(error)}"))
        with self._lock:
            self._stream.write(data)
            self._stream.flush()
