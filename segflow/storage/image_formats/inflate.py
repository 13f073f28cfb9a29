"""Unpacking of voxels, limited to the size that the header asks for.

The caller gives the expected bytes, so that a small file which would unpack to gigabytes costs no memory.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
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
STEP_BYTES = 1 << 16
"""Bytes of a piece. Above 2^17 the C library maps each anew."""

DAMAGE = (OSError, EOFError, zlib.error, cast(type[Exception], isal_zlib.IsalError))  # its type stub says object


def inflate(packed: BinaryIO, expected: int, file: Path) -> Iterator[bytes]:
    """Unpack gzip, of one member or several, a piece at a time.

    Pieces stay in the processor's cache, and in memory that is used again in place of new pages.

    Args:
        packed: The packed file, at its first byte. Bytes after the last member are skipped with a warning.
        expected: Bytes that the header asks for, including the header if it is packed too.
        file: Named in errors.

    Yields:
        Pieces that hold exactly the expected bytes together. Only the end of the iteration says that all is well.

    Raises:
        SegflowError: The content is damaged, or unpacks to less or to far more.
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
                if unpacked < expected:
                    yield part[: expected - unpacked]
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
    _warn_of_more(rest, packed, file)


def _warn_of_more(rest: bytes, packed: BinaryIO, file: Path) -> None:
    """Warn of bytes behind the packed data, unless all are 0, as some writers leave them."""
    count, is_padding = 0, True
    while rest:
        count += len(rest)
        is_padding = is_padding and not rest.strip(b"\0")
        rest = packed.read(STEP_BYTES)
    if not is_padding:
        log.warning("%s: %d bytes behind its packed data are passed over", file, count)


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
