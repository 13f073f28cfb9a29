"""A terminal of a known size, with a program in it: what a person sees there at the end and meanwhile."""

from __future__ import annotations

import os
import select
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from apps_commands import PATHS

pyte = pytest.importorskip("pyte", reason="the emulated screen needs pyte")
pty = pytest.importorskip("pty", reason="this system has no pseudo terminals")

GIVE_UP_SECONDS = 240
UNWANTED = ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", *PATHS)


@dataclass
class Seen:
    """What a program showed.

    Attributes:
        code: Its exit code.
        raw: All that it wrote.
        lines: The lines at the end, those that have scrolled away included, without empty ones.
        frames: The lines of the screen after each piece of output.
        cursor_shown: Whether the cursor is visible at the end.
    """

    code: int
    raw: bytes
    lines: list[str]
    frames: list[list[str]] = field(repr=False)
    cursor_shown: bool

    def meanwhile(self, *words: str) -> list[str]:
        """The lines that once stood on the screen and hold all of these words."""
        return [line for frame in self.frames for line in frame if all(word in line for word in words)]


def look_at(
    arguments: list[str],
    *,
    columns: int,
    rows: int = 24,
    folder: Path | None = None,
    interrupt_at: str | None = None,
    **environment: str,
) -> Seen:
    """Run Python with arguments in a terminal, and watch.

    Args:
        arguments: Arguments of the interpreter.
        columns, rows: Size of the terminal.
        folder: The working folder.
        interrupt_at: A text. Once it is on the screen, Ctrl-C is pressed.
        **environment: Further environment variables.
    """
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    clean = {key: value for key, value in os.environ.items() if key not in UNWANTED}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**clean, "TERM": "xterm-256color", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1.0)
    stream = pyte.ByteStream(screen)
    raw, frames = b"", []
    begun = time.monotonic()
    while time.monotonic() - begun < GIVE_UP_SECONDS:
        if not select.select([ours], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the program has ended
            break
        if not piece:
            break
        raw += piece
        stream.feed(piece)
        frames.append(_written(screen.display))
        if interrupt_at is not None and any(interrupt_at in line for line in frames[-1]):
            interrupt_at = None
            process.send_signal(signal.SIGINT)
    else:
        process.kill()
    os.close(ours)
    passed = ["".join(row[column].data for column in range(columns)) for row in screen.history.top]
    return Seen(process.wait(), raw, _written([*passed, *screen.display]), frames, not screen.cursor.hidden)


def _written(lines: list[str]) -> list[str]:
    return [line.rstrip() for line in lines if line.strip()]
