"""GIPL (.gipl): a header of 256 bytes, then the voxels, uncompressed."""

from __future__ import annotations

import math
import struct
from pathlib import Path

from segflow.storage.image_formats.header_checks.text_headers import check_length, header_error, rest_of
from segflow.storage.regular_files import open_regular

HEADER_BYTES = 256
MAGIC_NUMBERS = (4026526128, 719555000)
ITEM_BYTES = {7: 1, 8: 1, 15: 2, 16: 2, 31: 4, 32: 4, 64: 4, 65: 8}
"""ITK's type number → bytes of a voxel."""
BINARY = 1


def check_gipl(file: Path) -> int:
    """Check a GIPL header before ITK reads it.

    Returns:
        Bytes of its voxels.

    Raises:
        SegflowError: It is not a GIPL file, its size or type is impossible, or the file is too short.
    """
    with open_regular(file) as stream:
        start = stream.read(HEADER_BYTES)
        rest = rest_of(stream, file)
    if len(start) < HEADER_BYTES or struct.unpack(">I", start[252:])[0] not in MAGIC_NUMBERS:
        raise header_error(file, "it is not a GIPL file", start[252:])
    size, kind = struct.unpack(">4H", start[:8]), struct.unpack(">H", start[8:10])[0]
    if kind not in ITEM_BYTES and kind != BINARY:
        raise header_error(file, "its type of voxels is not known", kind)
    if not all(size[:2]):
        raise header_error(file, "its size is impossible", size)
    voxel_bytes: int = math.prod(max(1, n) for n in size) * ITEM_BYTES.get(kind, 1)
    check_length(file, [rest], voxel_bytes, 1)
    return voxel_bytes
