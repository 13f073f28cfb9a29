"""Forward passes side by side on a CPU, each on a share of the threads.

A pass consists of thousands of short parallel regions, and the threads of a region wait for each other at its end. On a
machine that others use too, one of them often has lost its core, and the others wait for as long as the system lets
another program run. Passes that compute side by side on one thread each need not wait for each other: whoever is free
takes the next one. They also use the cores better, since much of a pass is too small to be divided.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from segflow.execution.machine import memory_bytes
from segflow.network.segmentation_network import SegmentationNetwork

Result = TypeVar("Result")

_SHARE_OF_MEMORY = 0.25
"""Share of the memory that the activations of all passes may take together."""

VALUES_PER_FEATURE, _VALUES_PER_OUTPUT = 6, 3
"""Values per voxel of the patch that a pass holds at its peak, for each feature of the finest level and each output."""

_USED = 0.8
"""Least share of the threads that is in use: of 16 threads, 9 passes would use 9, and 8 passes use all."""

_WAITING = 2
"""Finished results that may wait for an earlier one, for each pass at the same time."""


def passes_that_fit(networks: Sequence[nn.Module], shape: Sequence[int]) -> int:
    """Passes that may compute at the same time; 1 for networks of which it is not known that they may.

    Args:
        networks: The networks.
        shape: (B, C, *patch) of a pass.
    """
    largest = 0
    for network in networks:
        if not isinstance(network, SegmentationNetwork) or not keeps_nothing(network):
            return 1
        outputs = len(next(network.heads[-1].parameters()))
        values = VALUES_PER_FEATURE * network.widest + _VALUES_PER_OUTPUT * outputs + shape[1]
        largest = max(largest, values)
    voxels = shape[0] * torch.Size(shape[2:]).numel()
    return max(1, int(memory_bytes() * _SHARE_OF_MEMORY) // max(4 * largest * voxels, 1))


def keeps_nothing(network: nn.Module) -> bool:
    """Whether threads may call the network at the same time: only layers of torch's and ours, without hooks."""
    if torch_module._has_any_global_hook():
        return False
    for module in network.modules():
        known = type(module).__module__.startswith(("torch.nn.modules.", "segflow.network."))
        hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if not known or hooks or module._backward_pre_hooks or compiled or "forward" in vars(module):
            return False
    return True


def shared(threads: int, most: int) -> tuple[int, int]:
    """How many passes, ``most`` at most, compute at the same time, and how many of the threads each has."""
    fitting = [n for n in range(1, min(threads, most) + 1) if n * (threads // n) >= _USED * threads]
    passes = max(fitting, default=1)
    return passes, threads // passes


def in_order(
    calls: Sequence[Callable[[], Result]],
    most: int,
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Generator[Result, None, None]:
    """The results of calls that run side by side, in the order of the calls.

    They divide the threads that torch has for the caller, who has one until the last result, and then all again.

    Args:
        calls: They may run at the same time, in any order. A few results wait for earlier ones.
        most: Calls that may run at the same time.
        context: Modes of torch that hold for a thread, such as ``torch.inference_mode``. Every call is within it.

    Yields:
        The result of each call.

    Raises:
        BaseException: That of a call that failed. The other calls are broken off.
    """
    passes, threads = shared(torch.get_num_threads(), min(most, len(calls)))
    if passes < 2:
        for call in calls:
            with context():
                result = call()
            yield result
            del result  # it may be as large as the memory of a pass
        return
    work = _Work(calls, passes, threads, context)
    try:
        work.start()
        for index in range(len(calls)):
            yield work.take(index)
    except BaseException:
        work.break_off()
        raise
    finally:
        work.end()


class _BrokenOff(BaseException):
    """Raised within a thread whose result nobody waits for any more."""


class _Work(Generic[Result]):
    """The threads that make calls, and results that are not taken yet.

    The threads use no lock of Python's but queues: an exception that arrives from outside would leave it locked.
    """

    def __init__(
        self,
        calls: Sequence[Callable[[], Result]],
        passes: int,
        threads: int,
        context: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._calls = calls
        self._threads = threads
        self._before = torch.get_num_threads()
        self._context = context
        self._results: dict[int, Result] = {}
        self._done: SimpleQueue[tuple[int, Result | None, BaseException | None]] = SimpleQueue()
        self._wanted: SimpleQueue[int | None] = SimpleQueue()
        self._asked = 0
        self._workers = [threading.Thread(target=self._run, name=f"pass-{n}", daemon=True) for n in range(passes)]

    def start(self) -> None:
        """Start the threads. The caller's has none beside it meanwhile, since theirs use the cores.

        Torch gives the number that a thread sets to all that ask later, too. So another one sets the number as it was.
        """
        for worker in self._workers:
            worker.start()
        for _ in self._workers:
            self._done.get()
        torch.set_num_threads(1)
        last = threading.Thread(target=torch.set_num_threads, args=(self._before,))
        last.start()
        last.join()
        for _ in range(_WAITING * len(self._workers)):
            self._ask()

    def take(self, index: int) -> Result:
        """Wait for a result. They must be taken in order."""
        while index not in self._results:
            done, result, error = self._done.get()
            if error is not None:
                raise error
            self._results[done] = result  # type: ignore[assignment]
        self._ask()
        return self._results.pop(index)

    def break_off(self) -> None:
        """Have every thread stop at its next operation. Without it, Ctrl-C would wait for whole passes."""
        for worker in self._workers:
            if worker.ident is not None:
                identity, error = ctypes.c_ulong(worker.ident), ctypes.py_object(_BrokenOff)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, error)

    def end(self) -> None:
        """Wait until every thread has ended, and give the caller its threads again."""
        torch.set_num_threads(self._before)
        for _ in self._workers:
            self._wanted.put(None)
        for worker in self._workers:
            if worker.ident is not None:
                worker.join()

    def _ask(self) -> None:
        if self._asked < len(self._calls):
            self._wanted.put(self._asked)
            self._asked += 1

    def _run(self) -> None:
        try:
            torch.set_num_threads(self._threads)
            torch.get_num_threads()  # a thread's first question takes over what was set last, in whichever thread
            self._done.put((-1, None, None))
            while (index := self._wanted.get()) is not None:
                try:
                    with self._context():
                        result = self._calls[index]()
                    self._done.put((index, result, None))
                    del result
                except _BrokenOff:
                    raise
                except BaseException as error:  # which the caller raises
                    self._done.put((index, None, error))
        except _BrokenOff:
            pass
