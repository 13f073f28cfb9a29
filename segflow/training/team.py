"""The processes that train one fold together: what they tell each other outside the training's own exchange.

They meet at torch's `TCPStore`, the one by which torch forms its process group, before the training begins. Waiting
for a word at the store never times out, unlike a collective, since a thread notices if a process fails or is lost
(`watch.py`). A process alone needs no store.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist

from segflow.core.errors import SegflowError
from segflow.execution.interrupts import SIGINT_EXIT, SIGTERM_EXIT, exit_code_of_interrupt
from segflow.execution.place import LIGHTNING, PARENT, Place
from segflow.training.meeting import connect, find_store, open_store
from segflow.training.watch import GO_ON, Failure, Watch

POLL = 0.1
PARTING = 20.0
"""Seconds for which rank 0 waits until the others have heard its last word."""

logger = logging.getLogger(__name__)

_LIGHTNINGS_OWN = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


class OtherRankError(SegflowError):
    """Another process of the training failed, and this one ends with it."""


class Team:
    """The processes that train one fold, as one of them sees them.

    Args:
        place: The place of this process.
        topic: What they train, the same text for all. Words about another fold are not heard.

    Attributes:
        place: The place of this process.
        rank: Its number, 0 first.
        world_size: Number of processes. Those that Lightning will start count when it has.
    """

    def __init__(self, place: Place, topic: str = "") -> None:
        self.place = place
        self.rank = place.node if place.launcher == LIGHTNING and place.together > 1 else place.rank or 0
        self.world_size = place.together
        self._topic = topic
        self._own: dict[str, Any] = {}
        self._store: dist.Store | None = None
        self._watch: Watch | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process claims the folder, writes and reports."""
        return self.place.is_first

    @property
    def failure(self) -> Failure | None:
        """The first failure of any process, if there is one."""
        return None if self._watch is None else self._watch.failure

    def form(self, rank: int, world_size: int, launcher: object = None) -> None:
        """Tell the numbers of the training, and Lightning's launcher, which has the processes that it starts.

        Raises:
            SegflowError: Another number of processes was started than the trainer expects.
        """
        place = self.place
        if place.several and place.launcher != LIGHTNING and (rank, world_size) != (place.rank, place.together):
            raise SegflowError(
                f"{place.launcher} started {place.together} processes, and the trainer expects {world_size}",
                found=f"{place.name}, which is number {rank} of the trainer",
                fix="Set trainer.devices to the processes of a machine and trainer.num_nodes to the machines.",
            )
        if place.several:
            self.rank, self.world_size = rank, world_size
        if self._watch is not None:
            self._watch.started = lambda: tuple(getattr(launcher, "procs", ()))

    def announce(self, name: str, content: Any) -> None:
        """Tell the others plain JSON under a name."""
        if self._store is None:
            self._own[name] = content
        else:
            self._store.set(name, json.dumps(content))

    def hear(self, name: str) -> Any:
        """Wait for what a process tells under a name, however long it takes.

        Raises:
            OtherRankError: A process failed or is lost.
        """
        if self._store is None:
            return self._own[name]
        while True:
            if self.failure is not None:
                raise OtherRankError(self.failure.text)
            with suppress(RuntimeError):  # the loss of the store is a failure, which the watch words
                if self._store.check([name]):
                    return json.loads(self._store.get(name))
            time.sleep(POLL)

    def follows_another(self, error: BaseException) -> bool:
        """Whether an error of this process only follows from the failure of another, which may be known a little later.

        Call it where this process ends with the error.
        """
        if self._watch is None:
            return False
        self._watch.is_ending = True
        if isinstance(error, OtherRankError):
            return True
        is_signal = _code_of_signal(error) is not None
        if is_signal and self.place.launcher != LIGHTNING:
            self._watch.wait(2.0)  # such launchers end all processes if one of them is lost
        elif is_lost_connection(error):
            self._watch.wait(10.0)
        elif not is_signal:
            return False
        return self.failure is not None

    @contextmanager
    def met(self) -> Iterator[None]:
        """Meet the others, and tell them if the block fails. Their failures are raised here.

        Raises:
            SegflowError: There is no rank 0, its port is taken, or another process failed.
            SystemExit: A signal, or a failure that another process of this machine words.
        """
        if not self.place.several:
            yield
            return
        before = {name: os.environ.get(name) for name in (*_LIGHTNINGS_OWN, PARENT)}
        try:
            self._meet()
            yield
        except BaseException as error:
            raise self._last_word(error) from error.__cause__
        finally:
            if self._watch is not None:
                self._watch.part(at_least=self.place.together, seconds=PARTING)
            self._store, self._watch = None, None
            for name, value in before.items():  # those of Lightning would make the next training one of its ranks
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def _meet(self) -> None:
        store = open_store(self.place) if self.is_first else find_store(self.place)
        if self.place.launcher == LIGHTNING and self.place.local_rank == 0:
            os.environ[PARENT] = str(os.getpid())
        prefix = f"segflow/{self._topic}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        self._store = dist.PrefixStore(prefix, store)
        self._watch = Watch(dist.PrefixStore(prefix, connect(store.host, store.port)), self.place)
        self._watch.start()

    def _last_word(self, error: BaseException) -> BaseException:
        """Tell the others of an error, unless they told first, and return what this process raises."""
        watch = self._watch
        if watch is None:
            return error
        follows = self.follows_another(error)
        failure, is_own = watch.publish(*_told(error))
        if not watch.tells():
            logger.debug("%s ends", self.place.name, exc_info=error)
            return SystemExit(failure.code)
        if failure.is_signal:
            logger.warning("%s", failure.text)
            return SystemExit(failure.code)
        return OtherRankError(failure.text) if follows and not is_own else error


def is_lost_connection(error: BaseException) -> bool:
    """Whether a process noticed only that another one is gone."""
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )


def _code_of_signal(error: BaseException) -> int | None:
    """130 or 143 if a signal ends this process."""
    if isinstance(error, SystemExit) and error.code in (SIGINT_EXIT, SIGTERM_EXIT):
        return int(error.code)
    return exit_code_of_interrupt(error)


def _told(error: BaseException) -> tuple[str, int]:
    """Message and exit code of an error for the other processes."""
    code = _code_of_signal(error)
    if code is not None:
        return f"ended by {'SIGTERM' if code == SIGTERM_EXIT else 'Ctrl-C'}. {GO_ON}", code
    if isinstance(error, SystemExit):
        return f"ended with exit code {error.code}", error.code if isinstance(error.code, int) else 1
    if is_lost_connection(error):
        first = next(iter(str(error).splitlines()), "")[:200]
        return f"the connection to another process of the training was lost ({first}). {GO_ON}", 1
    return str(error) if isinstance(error, SegflowError) else f"{type(error).__name__}: {error}", 1
