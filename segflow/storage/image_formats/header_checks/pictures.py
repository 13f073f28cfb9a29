"""Checks of pictures by their first bytes: Pillow gets only formats that hold nothing but pixels.

Pillow judges a file by its content, and starts a program for some formats (PostScript).
"""

from __future__ import annotations

from pathlib import Path

from segflow.storage.image_formats.header_checks.tiff import MAGICS, check_tiff, damaged
from segflow.storage.image_formats.inflate import MOST_TIMES
from segflow.storage.regular_files import check_regular, check_voxel_bytes, open_regular

PNG = b"\x89PNG\r\n\x1a\n"
OTHERS = (
    *(b"BM", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"RIFF", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
)
"""First bytes of BMP, JPEG, GIF, WebP, JPEG 2000 and the portable maps. Pillow limits their sizes."""
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""PNG's colour type → numbers per pixel."""


def check_picture(file: Path) -> int:
    """Check a picture before Pillow opens it.

    Returns:
        Bytes of its pixels; 0 if only Pillow can tell.

    Raises:
        SegflowError: It is not a picture of a known format, or it contradicts its size.
    """
    with open_regular(file) as stream:
        start = stream.read(32)
    if start[:4] in MAGICS:
        return check_tiff(file)
    if start.startswith(PNG):
        return _png_bytes(start, file)
    if not start.startswith(OTHERS):
        raise damaged(file, "it is not a picture of a known format", start[:8])
    return 0


def _png_bytes(start: bytes, file: Path) -> int:
    width, height = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    if len(start) < 26 or start[12:16] != b"IHDR" or start[25] not in SAMPLES or not (width and height):
        raise damaged(file, "it has no header of a PNG", start[12:26])
    pixel_bytes = height * ((width * SAMPLES[start[25]] * start[24] + 7) // 8)
    if pixel_bytes > check_regular(file) * MOST_TIMES:
        raise damaged(file, "it is too short for its size", f"{width} x {height} pixels in {check_regular(file)} bytes")
    check_voxel_bytes(pixel_bytes, file)
    return pixel_bytes
