"""Files of single arrays: compressed, with checksums, and refused if they hold anything else (recipe 4.3)."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from segflow.execution.machine import granted_threads
from segflow.storage.array_library import array_library
from segflow.storage.chunks import chunk_and_block
from segflow.storage.json_files import written_whole

# Zstandard at its lowest level writes four times as fast as LZ4HC at 5, and smaller files. Every blosc2 reads them.
_CODEC = "ZSTD"
_LEVEL = 1
_IN_MEMORY = 64 * 2**20
_AT_ONCE = 64 * 2**20
"""Bytes that are compressed in one go."""
_SMALL = 16 * 2**20
"""Bytes below which the library itself compresses in one go."""
_SAMPLE = 8192
_THREADS = "BLOSC_NTHREADS"

ENDS = "ends_crc32"
"""Key for the checksum of a file's first and last bytes, which say how to read it. It is checked at every opening; old
arrays lack it."""

_END_BYTES = 4096

_PLAIN = b"\xa4b2nd"
"""Name of the metadata layer that arrays of segflow have beside those of every file of the library."""

_NOT_PLAIN = (b"\xa9LazyArray", b"\xa3b2o", b"\xacproxy-source", b"\xa7vlarray", b"\xa9listarray", b"\xaabatcharray")
"""Names of metadata layers that refer to other files or to code, which the library would open and run."""


def write_array(path: Path, array: np.ndarray, patch_size: Sequence[int]) -> dict[str, int]:
    """Write an array as a whole or not at all.

    Args:
        path: Ends in ``.npy`` for plain numbers, else in ``.b2nd``.
        array: (C, Z, Y, X), or any shape for plain numbers.
        patch_size: Patch size of the training that will read it, in voxels z, y, x (y, x in 2D). It decides the chunks.

    Returns:
        ``bytes`` and the checksums that are compared when the file is opened.
    """
    # On disk the library writes once per chunk, and a 2D configuration has one per slice.
    content = _content(path, array, patch_size) if array.nbytes <= _IN_MEMORY else None
    with written_whole(path, needed=array.nbytes) as temporary:
        if content is not None:
            temporary.write_bytes(content)
            return _checks(content)
        if path.suffix == ".npy":
            np.save(temporary, array, allow_pickle=False)
        else:
            _compress(array, _options(array, patch_size, granted_threads()), urlpath=str(temporary), mode="w")
        return checks_of(temporary)


def checks_of(file: Path) -> dict[str, int]:
    """Size and checksums of a file, as a case's properties list them."""
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "crc32": checksum(file), ENDS: checksum_of_ends(stream)}


def refuse_objects(stream: BinaryIO) -> None:
    """Refuse an open file that holds more than an array, such as an expression over other files.

    Raises:
        ValueError: It does, or its header is invalid.
    """
    stream.seek(0)
    start = stream.read(15)
    size = int.from_bytes(start[11:15], "big", signed=True)
    head = start + stream.read(min(max(size - len(start), 0), 1 << 16))
    if _PLAIN not in head or any(name in head for name in _NOT_PLAIN):
        raise ValueError("it is not a plain array")


def _content(path: Path, array: np.ndarray, patch_size: Sequence[int]) -> bytes:
    """The bytes of a small array's file."""
    if path.suffix == ".npy":
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        return stream.getvalue()
    frame: bytes = _compress(array, _options(array, patch_size, 1), contiguous=True).to_cframe()
    return frame


def _compress(array: np.ndarray, options: dict[str, Any], **where: Any) -> Any:
    """The compressed array of a C-contiguous one (C, Z, Y, X)."""
    if array.nbytes < _SMALL:
        return array_library().asarray(array, **options, **where)
    result = array_library().empty(array.shape, array.dtype, **options, **where)
    # The library starts its threads anew for each assignment, and no other thread of Python runs during one.
    depth = options["chunks"][1]
    depth *= max(1, _AT_ONCE // (depth * array[0, 0].nbytes))
    for channel in range(len(array)):
        for z in range(0, array.shape[1], depth):
            part = (slice(channel, channel + 1), slice(z, z + depth))
            result[part] = array[part]
    return result


def _options(array: np.ndarray, patch_size: Sequence[int], threads: int) -> dict[str, Any]:
    starts, stops = middle_block(array.shape, patch_size, array.itemsize)
    sample = array[tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))]
    return array_options(array.shape, patch_size, sample, threads)


def array_options(shape: Sequence[int], patch_size: Sequence[int], sample: np.ndarray, threads: int) -> dict[str, Any]:
    """The library's options for a compressed array.

    Args:
        shape: (C, Z, Y, X).
        patch_size: See `write_array`.
        sample: The array's `middle_block`, (1, z, y, x).
        threads: That may compress.
    """
    chunk, block = chunk_and_block(shape, patch_size, sample.itemsize)
    _limit_threads(threads)
    return {
        "chunks": chunk,
        "blocks": block,
        "cparams": {
            "codec": array_library().Codec[_CODEC],
            "clevel": _LEVEL,
            "filters": [_better_filter(np.ascontiguousarray(sample))],
            "nthreads": threads,
        },
        "dparams": {"nthreads": 1},
    }


def middle_block(shape: Sequence[int], patch_size: Sequence[int], item_bytes: int) -> tuple[list[int], list[int]]:
    """Where the block from the middle of an array starts and ends, four entries each."""
    _, block = chunk_and_block(shape, patch_size, item_bytes)
    starts = [(n - b) // 2 for n, b in zip(shape, block, strict=True)]
    return starts, [s + b for s, b in zip(starts, block, strict=True)]


def _better_filter(sample: np.ndarray) -> Any:
    """The filter that makes a block smaller: shuffle or none (recipe 4.3 tries a whole chunk)."""
    if sample.dtype.kind == "f":  # intensities are much the same everywhere, and take longest
        sample = sample.ravel()[max(0, sample.size - _SAMPLE) // 2 :][:_SAMPLE]
    blosc2 = array_library()
    options: dict[str, Any] = {
        "codec": blosc2.Codec[_CODEC],
        "clevel": _LEVEL,
        "typesize": sample.itemsize,
        "nthreads": 1,
    }

    def length(choice: Any) -> int:
        return len(blosc2.compress2(sample, filters=[choice], **options))

    kinds = blosc2.Filter
    return kinds.SHUFFLE if length(kinds.SHUFFLE) < length(kinds.NOFILTER) else kinds.NOFILTER


def _limit_threads(threads: int) -> None:
    """Limit the threads that the library uses beside compressing.

    It starts new ones for each chunk that it appends and ignores its own options. Only the environment limits them.
    """
    if os.environ.get(_THREADS) != str(threads):
        os.environ[_THREADS] = str(threads)


def checksum(path: Path) -> int:
    """CRC-32 of a file's content."""
    value = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            value = zlib.crc32(part, value)
    return value


def _checks(content: bytes) -> dict[str, int]:
    """Size and checksums of a file with this content."""
    start, end = content[:_END_BYTES], content[max(_END_BYTES, len(content) - _END_BYTES) :]
    return {"bytes": len(content), "crc32": zlib.crc32(content), ENDS: zlib.crc32(end, zlib.crc32(start))}


def checksum_of_ends(stream: BinaryIO) -> int:
    """CRC-32 of an open file's first and last bytes."""
    stream.seek(0)
    value = zlib.crc32(stream.read(_END_BYTES))
    stream.seek(max(stream.tell(), stream.seek(0, os.SEEK_END) - _END_BYTES))
    return zlib.crc32(stream.read(), value)
