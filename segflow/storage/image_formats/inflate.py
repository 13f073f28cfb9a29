"""Unpacking of voxels, limited to the size that the header asks for.

The caller gives the expected bytes, so that a small file which would unpack to gigabytes costs no memory.
"""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from isal import igzip_lib, isal_zlib

from segflow.core.errors import SegflowError
from segflow.storage.image_formats.contract import RESAVE, unreadable

log = logging.getLogger(__name__)

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW = 31
SURPLUS_BYTES = 1 << 20
"""Bytes that may follow the voxels, since some writers pad their files."""
MOST_TIMES = 1032
"""Highest ratio that deflate reaches."""
PIECE_BYTES = 1 << 17
STEP_BYTES = 1 << 20

DAMAGE = (OSError, EOFError, zlib.error, cast(type[Exception], isal_zlib.IsalError))  # its type stub says object


def inflate(content: bytes, expected: int, file: Path) -> bytes:
    """Unpack gzip, of one member or several.

    Args:
        content: Packed bytes. Bytes after the last member are skipped with a warning.
        expected: Bytes that the header asks for, including the header if it is packed too.
        file: Named in errors.

    Returns:
        At least the expected bytes, and up to `SURPLUS_BYTES` more.

    Raises:
        SegflowError: The content is damaged, or unpacks to less or to far more.
    """
    if len(content) * MOST_TIMES < expected:
        raise truncated(file, f"{len(content)} packed bytes", f"{expected} bytes when unpacked")
    limit = expected + SURPLUS_BYTES
    view = memoryview(content)
    parts: list[bytes] = []
    place = unpacked = 0
    step = len(view)  # usually one member, in one call; a call copies its remainder, so further members go in pieces
    try:
        while True:
            unpacker = isal_zlib.decompressobj(GZIP_WINDOW)
            while not unpacker.eof:
                if place >= len(view):
                    raise truncated(file, f"{unpacked} bytes when unpacked", f"{expected} bytes, and their end")
                parts.append(unpacker.decompress(view[place : place + step], limit + 1 - unpacked))
                unpacked += len(parts[-1])
                if unpacked > limit:
                    raise _too_much(file, limit, expected)
                place = min(place + step, len(view))
            place -= len(unpacker.unused_data)
            step = PIECE_BYTES
            if view[place : place + len(GZIP_MAGIC)] != GZIP_MAGIC:
                break
    except DAMAGE as error:
        raise unreadable(file, error) from error
    if unpacked < expected:
        raise truncated(file, f"{unpacked} bytes", f"{expected} bytes")
    if content[place:].strip(b"\0"):
        log.warning("%s: %d bytes behind its packed data are passed over", file, len(content) - place)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def inflate_to(target: BinaryIO, packed: BinaryIO, expected: int, file: Path) -> None:
    """Unpack gzip, of one member or several, from file to file, in a few megabytes of memory.

    Args:
        target: Gets the expected bytes, and none of those behind them.
        packed: The packed file, at its first byte.
        expected: See `inflate`.
        file: Named in errors.

    Raises:
        SegflowError: As `inflate`.
    """
    limit = expected + SURPLUS_BYTES
    unpacked, rest = 0, b""
    try:
        while True:
            unpacker = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
            while not unpacker.eof:
                if unpacker.needs_input:
                    rest = rest or packed.read(STEP_BYTES)
                    if not rest:
                        raise truncated(file, f"{unpacked} bytes when unpacked", f"{expected} bytes, and their end")
                part = unpacker.decompress(rest, STEP_BYTES)
                rest = b""
                target.write(part[: max(expected - unpacked, 0)])
                unpacked += len(part)
                if unpacked > limit:
                    raise _too_much(file, limit, expected)
            rest = unpacker.unused_data or packed.read(STEP_BYTES)
            if len(rest) < len(GZIP_MAGIC):
                rest += packed.read(STEP_BYTES)
            if rest[: len(GZIP_MAGIC)] != GZIP_MAGIC:
                break
    except (zlib.error, EOFError, cast(type[Exception], isal_zlib.IsalError)) as error:
        raise unreadable(file, error) from error
    if unpacked < expected:
        raise truncated(file, f"{unpacked} bytes", f"{expected} bytes")
    if rest.strip(b"\0"):
        log.warning("%s: bytes behind its packed data are passed over", file)


def _too_much(file: Path, limit: int, expected: int) -> SegflowError:
    return SegflowError(
        f"cannot read {file}: it unpacks to far more than its header asks for",
        found=f"more than {limit} bytes",
        expected=f"{expected} bytes",
        fix=RESAVE,
    )


def truncated(file: Path, found: str, expected: str) -> SegflowError:
    """The error for a file that ends before its voxels do."""
    return SegflowError(f"cannot read {file}: it is truncated", found=found, expected=expected, fix=RESAVE)
