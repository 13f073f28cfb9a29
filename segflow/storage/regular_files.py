"""Only regular files are read, and only those that a person named or that lie beside them.

A pipe or device under an image's name would block for ever or never end; a header from outside must not choose a file
elsewhere on the machine.
"""

from __future__ import annotations

import io
import os
import stat
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
"""Below this no machine that runs us is asked what memory it has."""


def open_regular(file: Path) -> io.BufferedReader:
    """Open a regular file for reading; never waits, as opening a pipe would.

    Raises:
        SegflowError: It is missing, unreadable, or a pipe, device, socket or folder. Names it.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise missing_file(file) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, OSError) and not file.is_file() and file.exists():  # a socket, or a device without driver
            raise _irregular(file, os.stat(file).st_mode) from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise SegflowError(f"cannot read {file}: {reason}", fix="Check the file and its permissions.") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _irregular(file, mode)
    return os.fdopen(descriptor, "rb")


def check_regular(file: Path) -> int:
    """As `open_regular`, for a library that opens the file by itself.

    Returns:
        The file's size in bytes.
    """
    with open_regular(file) as stream:
        return os.fstat(stream.fileno()).st_size


def file_beside(header: Path, name: str) -> Path:
    """The file that a header names as the place of its voxels; it must lie in the header's own folder.

    Args:
        header: The header's file.
        name: What it says.

    Raises:
        SegflowError: The name has a folder in it, or is a link that leads out of the folder.
    """
    plain = name not in ("", ".", "..") and not any(sign in name for sign in "/\\\0")
    file = header.parent / name if plain else header
    if plain and not file.is_symlink():
        return file
    # Links of header and voxels into one folder elsewhere, as data stores make them, keep the two beside each other.
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
    """Refuse an image that the machine's memory cannot hold, before any is asked for.

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
