"""Batches from worker processes, which keep working between epochs and whose death is reported with its cause."""

from __future__ import annotations

import errno
import itertools
import logging
import multiprocessing.queues
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from segflow.core.errors import SegflowError
from segflow.core.system_errors import size_text
from segflow.execution.interrupts import EARLY_WARNINGS
from segflow.execution.machine import SHARED_MEMORY, out_of_memory_kills, processor_count

logger = logging.getLogger(__name__)

MAX_WORKERS = 12

_CANNOT_SEND = 71
"""Exit code of a worker that cannot send a batch: EX_OSERR of the systems that name such codes."""

_CAUSES = {
    "Killed": "most likely memory ran out and the system killed it",
    "Bus error": "most likely shared memory (/dev/shm) is full; in Docker, start with a larger --shm-size",
    "Segmentation fault": "a C library crashed; an array that it was reading may be damaged",
}
_MORE_ROOM = "In Docker, start with a larger --shm-size; fewer training.num_workers need less, and 0 needs none."


def choose_workers(wanted: int, *, on_gpu: bool, processes: int) -> int:
    """Number of worker processes for one training process.

    Args:
        wanted: The user's number; -1 chooses.
        on_gpu: The network runs on a GPU, so it does not need the processors.
        processes: Training processes on this machine, which share its processors.
    """
    if wanted >= 0:
        return wanted
    cores = max(1, processor_count() // processes)
    if on_gpu:
        return min(MAX_WORKERS, max(1, cores - 1))
    return 0 if cores < 4 else min(MAX_WORKERS, cores // 4)


class _EndlessStream(Sampler[tuple[int, int]]):
    """Endless (epoch, index) from an epoch on, so that workers need not wait for the next epoch."""

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self.start_epoch = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for step in itertools.count(self.start_epoch * self._batches):
            yield divmod(step, self._batches)


class _ErrorsAsValues(Dataset[Any]):
    """Returns a `SegflowError` as a value, since torch would add a traceback to an exception from a worker."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, position: tuple[int, int]) -> Any:
        try:
            batch = self._dataset[position]
        except SegflowError as error:
            return error
        if get_worker_info() is not None:
            try:
                _share(batch)
            except (RuntimeError, OSError) as error:
                return SegflowError(
                    "a data worker cannot hand over a batch through shared memory (/dev/shm)",
                    found=" ".join(str(error).split()),
                    fix=f"{_MORE_ROOM} To continue from the last epoch, run the same command again.",
                )
        return batch


def _share(batch: Any) -> None:
    """Move a batch's tensors to shared memory.

    torch would do this in a thread whose failure is not reported: the batch would be lost, and the training would wait
    for ever.
    """
    if isinstance(batch, torch.Tensor):
        batch.share_memory_()
    elif isinstance(batch, (tuple, list)):
        for part in batch:
            _share(part)


class EpochLoader:
    """Loader for Lightning; one pass gives the batches of one epoch.

    The batch at (epoch, index) depends only on these two numbers and on the dataset's seed, so the number of workers,
    an interruption or a restart change nothing.

    Args:
        dataset: ``dataset[epoch, index]`` is a whole batch.
        batches: Batches of an epoch.
        epoch: Returns the epoch of the next pass.
        workers: Worker processes; 0 makes batches in this process.
        pin_memory: Copy batches to page-locked memory.
        repeat: Give the first batch again and again.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batches: int,
        epoch: Callable[[], int],
        workers: int,
        pin_memory: bool,
        repeat: bool = False,
    ) -> None:
        self._length = batches
        self._epoch = epoch
        self._repeat = repeat
        self._stream = _EndlessStream(batches)
        self._loader: DataLoader[Any] = DataLoader(
            _ErrorsAsValues(dataset),
            batch_size=None,
            sampler=self._stream,
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=_start_worker if workers else None,
            # With its own generator, starting the iterator does not draw from the global one, which would make a
            # resumed run differ from an uninterrupted one.
            generator=torch.Generator().manual_seed(0),
        )
        self._batches: Iterator[Any] | None = None
        self._position = -1
        self._first: Any = None
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        self._seek(self._epoch())
        for _ in range(self._length):
            yield self._next()

    def take_wait_seconds(self) -> float:
        """Seconds of waiting for batches since the last call."""
        seconds, self.wait_seconds = self.wait_seconds, 0.0
        return seconds

    def batch_seconds(self, skipped: int, counted: int) -> float:
        """Seconds in which the workers make a batch, after those that they made while nobody waited."""
        self._seek(self._epoch())
        for _ in range(skipped):
            self._next()
        started = time.perf_counter()
        for _ in range(counted):
            self._next()
        return (time.perf_counter() - started) / counted

    def close(self) -> None:
        """End the workers. A worker that does not end by itself is killed."""
        batches, self._batches = self._batches, None
        self._position = -1
        shut_down = getattr(batches, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
        for worker in getattr(batches, "_workers", ()):
            if worker.is_alive():
                worker.kill()

    def _seek(self, epoch: int) -> None:
        if self._batches is None or self._position != epoch * self._length:
            self._stream.start_epoch = epoch
            self.close()  # before new workers start
            self._batches = iter(self._loader)
            self._position = epoch * self._length

    def _next(self) -> Any:
        self._position += 1
        if self._first is not None:
            return self._first
        started = time.perf_counter()
        batch = next(self._batches)  # type: ignore[arg-type]
        self.wait_seconds += time.perf_counter() - started
        if isinstance(batch, SegflowError):
            raise batch
        if self._repeat:
            self._first = batch
        return batch


def _start_worker(number: int) -> None:
    """Ignore signals, which a batch system sends to all processes. The training process ends its workers."""
    for number in (signal.SIGTERM, signal.SIGINT, *EARLY_WARNINGS):
        signal.signal(number, signal.SIG_IGN)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]
    torch.set_num_threads(1)


def _give_up(error: Exception, batch: Any) -> None:
    """End this worker if a batch cannot be sent. The training process notices a dead worker, not a missing batch."""
    logger.error("a data worker cannot send a batch: %s", error)
    os._exit(_CANNOT_SEND)


def fit_workers(workers: int, needed: Callable[[int], int], room: int | None, *, wanted: int) -> int:
    """Number of worker processes whose batches fit into shared memory.

    Args:
        workers: Number of workers to start from.
        needed: Number of workers → bytes of shared memory that their batches need at most.
        room: Free bytes of shared memory; None if unknown.
        wanted: The user's ``training.num_workers``; -1 allows fewer workers.

    Raises:
        SegflowError: The user asks for more workers than fit.
    """
    if room is None or needed(workers) <= room:
        return workers
    fitting = next(count for count in range(workers - 1, -1, -1) if needed(count) <= room or not count)
    sizes = f"{size_text(room)} free in {SHARED_MEMORY}", f"{size_text(needed(workers))} for {workers} workers"
    if wanted >= 0:
        raise SegflowError(
            "the data workers' batches do not fit into shared memory",
            found=sizes[0],
            expected=sizes[1],
            fix=f"{_MORE_ROOM} There is room for training.num_workers={fitting}.",
        )
    logger.warning("%d data workers instead of %d: %s, and %s are needed. %s", fitting, workers, *sizes, _MORE_ROOM)
    return fitting


def name_dead_worker(error: BaseException, kills_before: int) -> SegflowError | None:
    """The error for a dead worker, with the likely cause; None if torch's error is about something else.

    Args:
        error: The error that ended the training.
        kills_before: `out_of_memory_kills` when the training started.
    """
    text = str(error)
    if isinstance(error, RuntimeError) and text.startswith(os.strerror(errno.EMFILE)):
        return SegflowError(
            "batches of the data workers cannot be received: this process may not open more files",
            fix="Raise the limit with ulimit -n, or set training.num_workers=0. Then run the same command again.",
        )
    found = re.search(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (.*)", text)
    if not isinstance(error, RuntimeError) or found is None:
        return None
    how = found.group(2).strip().rstrip(". ")
    name = next((name for name in _CAUSES if name in how), None)
    cause = _CAUSES[name] if name else "the cause is unknown"
    if out_of_memory_kills() > kills_before:
        cause = "the system killed a process because memory ran out"
    return SegflowError(
        f"a data worker died (process {found.group(1).strip()} {how}): {cause}",
        fix="To continue from the last epoch, run the same command again. Fewer training.num_workers need less memory.",
    )
