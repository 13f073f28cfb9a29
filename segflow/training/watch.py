"""Watching the processes of a training: the first failure ends all of them within seconds, with one message.

A process that is blocked in an exchange with a lost one cannot notice it itself: gloo's error names no cause, and NCCL
waits for half an hour.
"""

from __future__ import annotations

import _thread
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from segflow.execution.interrupts import SIGINT_EXIT, SIGTERM_EXIT
from segflow.execution.machine import out_of_memory_kills
from segflow.execution.place import Place
from segflow.training.blocked_signals import BlockedSignals

EVERY = 0.5
SOON = 0.1
GRACE = 5.0
"""Seconds in which a process ends by itself after a failure of another one."""
LONG_GRACE = 30.0
"""The same for one that is already ending."""

GO_ON = "To go on from the last whole epoch, run the same command again."

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the training.

    Attributes:
        name: Its name in messages.
        node: Number of its machine, as the launcher counts.
        local_rank: Its number on its machine.
        host: Name of its machine.
        machine: What only processes that see each other have in common.
        pid: Its process number.
    """

    name: str
    node: int
    local_rank: int
    host: str
    machine: str
    pid: int

    @classmethod
    def of(cls, place: Place) -> Member:
        """This process."""
        marks = [platform.node()]
        with suppress(OSError):
            marks.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
            marks.append(str(os.readlink("/proc/self/ns/pid")))
        return cls(place.name, place.node, place.local_rank, platform.node(), " ".join(marks), os.getpid())

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid} on {self.host})"


@dataclass(frozen=True, slots=True)
class Failure:
    """The first failure of a training.

    Attributes:
        text: The message.
        code: Exit code of all processes.
        pid: The process that failed, if it told so itself; else 0.
        machine: Where that is.
    """

    text: str
    code: int
    pid: int = 0
    machine: str = ""

    @property
    def is_signal(self) -> bool:
        """Whether a signal ended the training, which is no error."""
        return self.code in (SIGINT_EXIT, SIGTERM_EXIT)


class Watch:
    """Notices if a process of the training fails, is killed or is lost, and ends this one then.

    Args:
        store: Where the processes meet, for the use of the watch alone.
        place: Place of this process.

    Attributes:
        started: Gives the processes that this one started, whose exit codes it learns.
        is_ending: This process is ending by itself, and needs a little longer.
        failure: The first failure, if there is one.
    """

    def __init__(self, store: dist.Store, place: Place) -> None:
        self.started: Callable[[], Sequence[subprocess.Popen[Any]]] = tuple
        self.is_ending = False
        self.failure: Failure | None = None
        self._store = store
        self._own = Member.of(place)
        self._is_first = place.is_first
        self._number = 0
        self._kills = out_of_memory_kills()
        self._members: list[Member] = []
        self._found, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._signals = BlockedSignals()

    def start(self) -> None:
        """Enter this process among the others, and begin to watch."""
        self._number = self._store.add("members", 1) - 1
        self._store.set(f"member/{self._number}", json.dumps(asdict(self._own)))
        self._signals.listen()
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait for a failure."""
        self._found.wait(seconds)

    def publish(self, text: str, code: int) -> tuple[Failure, bool]:
        """Tell all that this process fails. The first failure counts.

        Returns:
            The failure that counts, and whether it is this one.
        """
        own = self._own
        if self.failure is None:
            self.failure = self._first(Failure(f"{own}: {text}", code, own.pid, own.machine))
        return self.failure, (self.failure.pid, self.failure.machine) == (own.pid, own.machine)

    def tells(self) -> bool:
        """Whether this process words a failure for its machine: it is the first of those that are left."""
        own = self._own
        before = [member for member in self._members if member.node == own.node and member.local_rank < own.local_rank]
        return all(self._is_dead(member) for member in before)

    def part(self, *, at_least: int, seconds: float) -> None:
        """Leave the others. Rank 0, whose end may end the store, waits until they have left too.

        Args:
            at_least: Number of processes that hear of a failure before.
            seconds: Longest time to wait.
        """
        self.is_ending = True
        self._closed.set()
        self._thread.join(10)
        self._signals.close()
        with suppress(RuntimeError):
            self._store.set(f"left/{self._number}", "")
            until = time.monotonic() + seconds
            while self._is_first and time.monotonic() < until and self._are_there(at_least):
                time.sleep(0.1)

    def _are_there(self, at_least: int) -> bool:
        self._read_members()
        if self.failure is not None and len(self._members) < at_least:
            return True
        others = [(number, member) for number, member in enumerate(self._members) if number != self._number]
        return any(not self._store.check([f"left/{number}"]) and not self._is_dead(member) for number, member in others)

    def _run(self) -> None:
        while not self._closed.is_set():
            failure = self._look()
            if failure is None:
                failure = self._blocked()
            if failure is not None:
                self._end(failure)
                return

    def _blocked(self) -> Failure | None:
        """Wait a moment. A signal that the main thread does not hear in time ends the training."""
        number = self._signals.next(EVERY)
        if number is None:
            return None
        until = time.monotonic() + GRACE
        while time.monotonic() < until:
            if self._closed.wait(SOON) or self.is_ending:
                return None
            if (failure := self._look()) is not None:  # a launcher ends all processes if one of them is lost
                return failure
        what, code = ("SIGTERM", SIGTERM_EXIT) if number == signal.SIGTERM else ("Ctrl-C", SIGINT_EXIT)
        return self._first(Failure(f"ended by {what}. {GO_ON}", code))

    def _look(self) -> Failure | None:
        if self.failure is not None:
            return self.failure
        try:
            if self._store.check(["failed"]):
                return Failure(**json.loads(self._store.get("failed")))
            self._read_members()
            return self._killed()
        except RuntimeError:
            time.sleep(1)  # until a process of this machine is seen to have ended, which says more
            gone = next((member for member in self._members if self._is_dead(member)), None)
            who = str(gone or ("the launcher" if self._is_first else "rank 0"))
            return self._lost(f"{who} was lost: it was killed, or its machine or the network to it failed")

    def _read_members(self) -> None:
        for number in range(len(self._members), self._store.add("members", 0)):
            if not self._store.check([f"member/{number}"]):
                return  # it is being written
            self._members.append(Member(**json.loads(self._store.get(f"member/{number}"))))

    def _killed(self) -> Failure | None:
        started = {process.pid: process for process in self._started()}
        for process in started.values():
            if process.poll() and all(member.pid != process.pid for member in self._members):
                return self._first(self._lost(f"process {process.pid} {how_it_ended(process.returncode)}"))
        for number, member in enumerate(self._members):
            if self._is_dead(member) and not self._store.check([f"left/{number}"]):
                how = "was killed, or ended without a message"
                if member.pid in started:
                    with suppress(subprocess.TimeoutExpired):  # it still returns its memory
                        how = how_it_ended(started[member.pid].wait(GRACE))
                return self._first(self._lost(f"{member} {how}"))
        return None

    def _started(self) -> Sequence[subprocess.Popen[Any]]:
        """Further ranks that Lightning started from here. Its own observer, which kills silently, leaves them to us."""
        for thread in threading.enumerate():
            if type(thread).__name__ == "_ChildProcessObserver":
                thread._child_processes = []  # type: ignore[attr-defined]
        return self.started()

    def _is_dead(self, member: Member) -> bool:
        """Whether a process of this machine has ended. Of those elsewhere nothing is known."""
        return member.machine == self._own.machine and member.pid != self._own.pid and not is_alive(member.pid)

    def _lost(self, what: str) -> Failure:
        return Failure(f"{what}. {advice(out_of_memory_kills() - self._kills)}", 1)

    def _first(self, failure: Failure) -> Failure:
        """Publish a failure, and return the first one of all."""
        try:
            return Failure(**json.loads(self._store.compare_set("failed", "", json.dumps(asdict(failure)))))
        except RuntimeError:
            return failure

    def _end(self, failure: Failure) -> None:
        """Let the main thread end, and end the process for it if it is blocked."""
        self.failure = failure
        self._found.set()
        if not self.is_ending:
            _thread.interrupt_main(signal.SIGTERM)
        if self._closed.wait(GRACE) or (self.is_ending and self._closed.wait(LONG_GRACE)):
            return
        if self.tells():
            logger.error("%s", failure.text)
        os._exit(failure.code)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs. One that ended and was not yet waited for does not."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] not in "ZX"
    if sys.platform == "win32":
        return _is_alive_on_windows(pid)
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _is_alive_on_windows(pid: int) -> bool:
    """The same by a handle of the process, since os.kill sends an event there that ends it."""
    import ctypes

    synchronize, still_running = 0x100000, 0x102
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    handle = kernel.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    try:
        return bool(kernel.WaitForSingleObject(handle, 0) == still_running)
    finally:
        kernel.CloseHandle(handle)


def how_it_ended(code: int) -> str:
    """The end of a process in words, from its exit code; a negative one is a signal's."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def advice(kills: int) -> str:
    """What to do about a process that was killed.

    Args:
        kills: Processes of this machine that the kernel ended for lack of memory meanwhile.
    """
    if kills > 0:
        what = "a process" if kills == 1 else f"{kills} processes"
        return (
            f"The kernel ended {what} of this machine for lack of memory: give the job more, or lower "
            f"training.num_workers. {GO_ON}"
        )
    return f"The kernel reports no lack of memory; a batch system's limit or a person may have ended it. {GO_ON}"
