"""Signals that arrive while the main thread is blocked within a library, where Python does not hear them."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from types import FrameType
from typing import Any

from segflow.execution.interrupts import Terminated

_listening: list[BlockedSignals] = []


class BlockedSignals:
    """Tells another thread of SIGINT and SIGTERM at once. Only the main thread may listen and close."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()
        self._before: tuple[int, Any] | None = None

    def listen(self) -> None:
        """Begin. SIGTERM becomes `Terminated`, unless it has a meaning already."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._here.setblocking(False)
        self._there.setblocking(False)
        handler = signal.getsignal(signal.SIGTERM)
        if handler == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminate)
        self._before = signal.set_wakeup_fd(self._there.fileno(), warn_on_full_buffer=False), handler
        _listening.append(self)

    def next(self, seconds: float) -> int | None:
        """The number of such a signal, if one arrives within this time."""
        if not select.select([self._here], [], [], seconds)[0]:
            return None
        return next((number for number in self._here.recv(64) if number in (signal.SIGINT, signal.SIGTERM)), None)

    def close(self) -> None:
        """Restore what was before."""
        if self._before is not None:
            _listening.remove(self)
            descriptor, handler = self._before
            signal.set_wakeup_fd(descriptor)
            if handler == signal.SIG_DFL:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._here.close()
        self._there.close()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _forget_in_child() -> None:
    """Signals to a data worker are not those of its parent."""
    if _listening:
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
