"""Reading of regular files only, named by a person or beside such a file.

A pipe or device with an image's name could block for ever or never end. An untrusted header must not choose a file
elsewhere on the machine.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.execution.machine import memory_bytes
from segflow.storage.listing import missing_file

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
SMALL_BYTES = 1 << 30
"""Images below this size are read without asking for the machine's memory."""
MOST_LEFT_OPEN = 64
"""Files that wait for their reading at once. Others are opened again."""

_left_open: dict[str, io.FileIO] = {}
_left_here: ContextVar[list[str] | None] = ContextVar("_left_here", default=None)


@contextmanager
def stamped_files_stay_open() -> Iterator[None]:
    """Leave files that are stamped in this block open for their reading, which then opens them no second time.

    Slow file systems answer an open more slowly than anything else. A file that was replaced in between is opened
    anew, so that reading gives what it would give without this.
    """
    mine: list[str] = []
    token = _left_here.set(mine)
    try:
        yield
    finally:
        _left_here.reset(token)
        for path in mine:
            if (left := _left_open.pop(path, None)) is not None:
                left.close()


def leave_open(file: Path, stream: io.BufferedReader) -> None:
    """Give up a stream of a whole file, so that `open_regular` may take it in the rest of the block; else close it."""
    mine = _left_here.get()
    if mine is None or len(_left_open) >= MOST_LEFT_OPEN:
        stream.close()
        return
    raw = stream.detach()  # without its buffer, so that every byte is read again
    mine.append(str(file))
    if not isinstance(raw, io.FileIO) or _left_open.setdefault(str(file), raw) is not raw:
        raw.close()


def _taken(file: Path) -> io.BufferedReader | None:
    """The stream that was left open for this file; None if there is none, or another file is there now."""
    raw = _left_open.pop(str(file), None)
    if raw is None:
        return None
    try:
        if os.path.samestat(os.stat(file), os.fstat(raw.fileno())):
            raw.seek(0)
            return io.BufferedReader(raw)
    except OSError:  # opening it will say why
        pass
    raw.close()
    return None


def open_regular(file: Path) -> io.BufferedReader:
    """Open a regular file for reading. It never waits, as it would for a pipe.

    Raises:
        SegflowError: It is missing, unreadable, or a pipe, device, socket or folder. The error names it.
    """
    return _taken(file) or open_anew(file)


def open_anew(file: Path) -> io.BufferedReader:
    """Like `open_regular`, but never a file that was left open."""
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise missing_file(file) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, OSError) and not file.is_file() and file.exists():  # a socket, a device without driver
            raise _irregular(file, os.stat(file).st_mode) from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise SegflowError(f"cannot read {file}: {reason}", fix="Check the file and its permissions.") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _irregular(file, mode)
    return os.fdopen(descriptor, "rb")


def check_regular(file: Path) -> int:
    """Check a file as `open_regular` does, for a library that opens it by itself.

    Returns:
        The file's size in bytes.
    """
    with open_regular(file) as stream:
        return os.fstat(stream.fileno()).st_size


def file_beside(header: Path, name: str) -> Path:
    """The file that a header names for its voxels. It must lie in the header's own folder.

    Args:
        header: The header's file.
        name: The name in the header.

    Raises:
        SegflowError: The name has a folder in it, or is a link that leads out of the folder.
    """
    plain = name not in ("", ".", "..") and not any(sign in name for sign in "/\\\0")
    file = header.parent / name if plain else header
    if plain and not file.is_symlink():
        return file
    # Data stores may link header and voxels to one folder elsewhere, where the two still lie beside each other.
    homes = {os.path.dirname(os.path.realpath(header)), os.path.realpath(header.parent)}
    if plain and os.path.dirname(os.path.realpath(file)) in homes:
        return file
    raise SegflowError(
        f"{header} says that its voxels lie elsewhere",
        found=repr(name[:80]),
        expected="the name of a file in the same folder",
        fix="Save the image again as one file, or put the file of its voxels beside it.",
    )


def check_voxel_bytes(voxel_bytes: int, file: Path) -> None:
    """Refuse an image that is larger than the machine's memory, before memory is allocated.

    Raises:
        SegflowError: It is larger than the memory.
    """
    if voxel_bytes > SMALL_BYTES and voxel_bytes > memory_bytes():
        raise SegflowError(
            f"cannot read {file}: its header asks for more voxels than memory holds",
            found=f"{voxel_bytes / 2**30:.3g} GiB of voxels",
            expected=f"at most {memory_bytes() / 2**30:.3g} GiB, this machine's memory",
            fix="Is the file damaged? Else crop or resample the image, or use a machine with more memory.",
        )


def _irregular(file: Path, mode: int) -> SegflowError:
    kind = KINDS.get(stat.S_IFMT(mode), "no file")
    return SegflowError(f"cannot read {file}", found=kind, expected="a regular file", fix="Check the path.")
