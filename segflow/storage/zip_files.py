"""Untrusted zip files, read in place: nothing is unpacked to the disk, and no more than the table of contents says."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.names import shortened
from segflow.execution.machine import memory_bytes

BROKEN = "It may be cut off or changed; copy it again."

MOST_TIMES, ALWAYS_BYTES = 20, 64 << 20
"""Highest ratio of unpacked to packed bytes, and bytes that are allowed at any ratio; trained weights hardly shrink."""

LONGEST_PATH, DEEPEST_PATH = 1024, 20

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, *UNUSABLE)
"""Errors of `zipfile` for damaged files; an encrypted file is a RuntimeError."""


def is_zip(path: Path) -> bool:
    """Whether the end of a file is that of a zip file."""
    try:
        return path.is_file() and zipfile.is_zipfile(path)
    except DAMAGE:
        return False


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip file and check its table of contents before anything else is read.

    Raises:
        SegflowError: It is not a zip file, or it is refused: it holds a path that leads outside, a link, an encrypted
            or oddly compressed file, or it would unpack to far more than its size.
    """
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise SegflowError(
            f"{path} is neither a folder nor a readable zip: {shortened(error, 200)}", fix=BROKEN
        ) from error
    try:
        check_table(archive, str(path), path.stat().st_size)
    except BaseException:
        archive.close()
        raise
    return archive


def check_table(archive: zipfile.ZipFile, name: str, size: int) -> None:
    """Refuse a zip by its table of contents; see `open_zip`.

    Args:
        archive: The zip.
        name: Its name in messages.
        size: Its size in bytes.
    """
    total = 0
    for info in archive.infolist():
        if reason := _why_refused(info):
            raise SegflowError(f"{name} is refused: a file in it {reason}", found=shortened(info.filename))
        total += info.file_size
    if total > max(MOST_TIMES * size, ALWAYS_BYTES):
        raise SegflowError(
            f"{name} is refused: it would unpack to far more than it is",
            found=f"{total / 2**20:.0f} MiB in a file of {size / 2**20:.1f} MiB",
            expected=f"at most {MOST_TIMES} times as much",
        )


def _why_refused(info: zipfile.ZipInfo) -> str | None:
    name = info.filename
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name:
        return "would lie outside its folder"
    if len(name) > LONGEST_PATH or name.count("/") > DEEPEST_PATH or "//" in name:
        return "has an impossible path"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "is a link"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        return "is compressed in a way that is not read"
    return None


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read one file of a zip that `open_zip` opened.

    Raises:
        SegflowError: There is none of this name, it is damaged, or it is larger than the memory.
    """
    where = f"{archive.filename or 'the zip'}, {shortened(name)}"
    try:
        info = archive.getinfo(name)
        if info.file_size > memory_bytes() // 2:
            raise SegflowError(f"{where} does not fit into memory", found=f"{info.file_size / 2**30:.1f} GiB")
        with archive.open(info) as stream:
            return stream.read(info.file_size + 1)  # reading to the end compares the checksum
    except SegflowError:
        raise
    except DAMAGE as error:
        raise SegflowError(f"cannot read {where}: {shortened(error, 200)}", fix=BROKEN) from error


def refuse_compressed(file: Path | IO[bytes], name: str) -> bool:
    """Refuse a zip whose files are compressed or overlap, which ``torch.save`` never writes.

    The files of a sound one together are no larger than the zip.

    Args:
        file: A file of any format. If it is open, it is left at its beginning.
        name: Its name in messages.

    Returns:
        Whether it is a zip at all.

    Raises:
        SegflowError: It is such a zip, or a damaged one.
    """
    try:
        if not zipfile.is_zipfile(file):
            return False
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        end = max((entry.header_offset + entry.compress_size for entry in entries), default=0)
        if sum(entry.file_size for entry in entries) > end:
            raise SegflowError(f"{name} is refused: it would unpack to far more than it is", fix=BROKEN)
        return True
    except SegflowError:
        raise
    except DAMAGE as error:
        raise SegflowError(f"cannot read {name}: {shortened(error, 200)}", fix=BROKEN) from error
    finally:
        if not isinstance(file, Path):
            file.seek(0)
