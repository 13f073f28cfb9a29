"""Unpacking of the chunks of a Zarr array. Only the packings listed here are known; a file cannot name code to run."""

from __future__ import annotations

import bz2
import importlib
from collections.abc import Callable
from typing import Any

from isal import isal_zlib

from segflow.core.errors import SegflowError

Unpack = Callable[[bytes, int], bytes]
"""Packed bytes and the length of what they hold → what they hold. Any exception means that they are damaged."""

INSTALL = "pip install 'segflow[zarr]'"
ZLIB_WINDOW, GZIP_WINDOW = 15, 31
SUM_BYTES = 4
BLOSC_HEADER_BYTES = 16


def _unzip(window: int) -> Unpack:
    def unpack(content: bytes, expected: int) -> bytes:
        unpacker = isal_zlib.decompressobj(window)
        result = bytes(unpacker.decompress(content, expected + 1))
        if len(result) <= expected and not unpacker.eof:  # the checksum stands behind the last byte
            result += unpacker.decompress(unpacker.unconsumed_tail, 1)
            if not unpacker.eof:
                raise EOFError("it ends too early")
        return result

    return unpack


def _unpack_bz2(content: bytes, expected: int) -> bytes:
    unpacker = bz2.BZ2Decompressor()
    result = unpacker.decompress(content, expected + 1)
    if not unpacker.eof:
        result += unpacker.decompress(b"", 1)
        if not unpacker.eof:
            raise EOFError("it ends too early")
    return result


def _unpack_blosc(content: bytes, expected: int) -> bytes:
    if len(content) < BLOSC_HEADER_BYTES:
        raise EOFError("it ends too early")
    holds, packed = (int.from_bytes(content[k : k + 4], "little") for k in (4, 12))
    if packed != len(content):
        raise EOFError(f"it has {len(content)} bytes in place of {packed}")
    if holds != expected:
        raise ValueError(f"it holds {holds} bytes in place of {expected}")
    import blosc2  # it takes long to load

    return bytes(blosc2.decompress2(content)) if expected else b""


def _by_numcodecs(name: str, length_of: Callable[[bytes], int | None]) -> Unpack:
    def unpack(content: bytes, expected: int) -> bytes:
        codec = getattr(_package("numcodecs", name.lower()), name)()
        length = length_of(content)
        if length is None:
            return bytes(codec.decode(content))
        if length != expected:  # it is not unpacked, since that might take any amount of memory
            raise ValueError(f"it holds {length} bytes in place of {expected}")
        return bytes(codec.decode(content)) if length else b""

    return unpack


def _length_of_lz4(content: bytes) -> int:
    return int.from_bytes(content[:4], "little")


def _length_of_zstd(content: bytes) -> int | None:
    """The length that a frame of Zstandard names (RFC 8878, 3.1.1.1); None if it names none."""
    if len(content) < 6:
        raise EOFError("it ends too early")
    flags = content[4]
    kind, is_single = flags >> 6, bool(flags & 0x20)
    start = 5 + (not is_single) + (0, 1, 2, 4)[flags & 3]
    width = (int(is_single), 2, 4, 8)[kind]
    length = int.from_bytes(content[start : start + width], "little") + (256 if kind == 1 else 0)
    return length if width else None


def _check_sum(content: bytes, expected: int) -> bytes:
    held, written = content[:-SUM_BYTES], content[-SUM_BYTES:]
    if _package("google_crc32c", "crc32c").value(held) != int.from_bytes(written, "little"):
        raise ValueError("its checksum is another")
    return held


UNPACKERS: dict[str, Unpack] = {
    "blosc": _unpack_blosc,
    "bz2": _unpack_bz2,
    "crc32c": _check_sum,
    "gzip": _unzip(GZIP_WINDOW),
    "lz4": _by_numcodecs("LZ4", _length_of_lz4),
    "zlib": _unzip(ZLIB_WINDOW),
    "zstd": _by_numcodecs("Zstd", _length_of_zstd),
}
"""Name in a Zarr array's metadata → what unpacks it."""


def _package(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SegflowError(f"this Zarr array uses {what}, which needs the package {name}", fix=INSTALL) from error
