"""The lock of a folder in which one process works at a time, on one machine or several."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

from segflow.core.errors import SegflowError

BEAT = 5.0
"""Seconds after which the holder touches the file, so that machines without a lock in common see that it lives."""
PATIENCE = 20.0
"""Seconds in which a touch is seen."""
LONG_AGO = 600.0
"""Seconds after which the last touch is old, also by a clock that differs by some minutes."""


def open_lock(file: Path) -> TextIO:
    """Open the file of a lock, which says who holds it. It is empty after a holder's regular end."""
    return file.open("a+", encoding="utf-8")


@contextmanager
def held(opened: TextIO, doing: str) -> Iterator[None]:
    """Hold a lock while the block runs. It ends with the process, in whatever way; child processes do not inherit it.

    Some file systems lock within one machine only, or not at all. There the holder's touches tell that it lives. A
    process on another machine that was killed a moment ago is waited for, so that this takes up to 20 seconds.

    Args:
        opened: The file, which is closed at the end.
        doing: What the holder does, for the message, such as ``trains in FOLDER``.

    Raises:
        SegflowError: Another process holds the lock. The error says which, where, and since when.
    """
    file = Path(opened.name)
    with opened:
        sure = _lock(opened)
        holder = _read(opened)
        if sure is None or (holder and not (sure and f" on {platform.node()}," in holder) and _lives(file, holder)):
            raise SegflowError(
                f"another process {doing}",
                found=holder or None,
                fix="Wait for it or end it, or give this run another run_name.",
            )
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        _write(opened, f"process {os.getpid()} on {platform.node()}, since {started}\n")
        ended = threading.Event()
        beat = threading.Thread(target=_touch, args=(file, ended), name="lock", daemon=True)
        beat.start()
        try:
            yield
        finally:
            ended.set()
            beat.join()
            with suppress(OSError):  # a full disk; the lock ends nevertheless
                _write(opened, "")


def _lock(opened: TextIO) -> bool | None:
    """True: locked. None: another process has it locked. False: the file system has no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of the two depends on the system
        return None
    except OSError:
        return False
    return True


def _lives(file: Path, holder: str) -> bool:
    """Whether the holder touches the file, or replaces its content."""
    if re.match(rf"process {os.getpid()} on {re.escape(platform.node())},", holder):
        return False  # an earlier process with the same number
    before = file.stat().st_mtime_ns
    if time.time() - before / 1e9 > LONG_AGO:
        return False
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        time.sleep(0.5)
        with file.open(encoding="utf-8") as again:  # to open a file asks a network's file system anew
            now = os.fstat(again.fileno()).st_mtime_ns
            if now != before:
                return bool(_read(again))
    return False


def _read(opened: TextIO) -> str:
    opened.seek(0)
    return opened.read().strip()


def _write(opened: TextIO, text: str) -> None:
    opened.seek(0)
    opened.truncate()
    opened.write(text)
    opened.flush()


def _touch(file: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(file)
