"""TIFF: directories of pages, each of which points to the next. An untrusted file may lead in a circle."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from segflow.core.errors import SegflowError
from segflow.storage.image_formats.contract import RESAVE
from segflow.storage.regular_files import check_voxel_bytes, open_regular

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BIG = 43
WIDTH, LENGTH, BITS, SAMPLES, INNER_PAGES = 256, 257, 258, 277, 330
ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
INTEGERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l", 13: "L", 16: "Q", 17: "q", 18: "Q"}
MOST_VALUES = 65536
"""Most values of a tag that is read here; no page has more samples or inner pages."""
MOST_SIDE = 1 << 24


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a file stores numbers: byte order, and the sizes of offsets and of the count of tags."""

    stream: BinaryIO
    file: Path
    size: int
    order: str
    big: bool

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset. It is an error if the file ends before."""
        if not 0 <= offset <= self.size - length:
            raise damaged(self.file, "a page lies outside the file", f"byte {offset} of {self.size}")
        self.stream.seek(offset)
        return self.stream.read(length)

    def number(self, content: bytes) -> int:
        """Bytes as a whole number, in the file's byte order."""
        return int.from_bytes(content, "little" if self.order == "<" else "big")


def check_tiff(file: Path) -> int:
    """Follow the pages of a TIFF before a library does.

    Returns:
        Bytes of all pages' pixels.

    Raises:
        SegflowError: The pages go in a circle or out of the file, have no size, or are more than memory holds.
    """
    with open_regular(file) as stream:
        start = stream.read(16)
        if start[:4] not in MAGICS or len(start) < 8:
            raise damaged(file, "it is not a TIFF file", start[:4])
        order = "<" if start[:1] == b"I" else ">"
        layout = _Layout(stream, file, os.fstat(stream.fileno()).st_size, order, BIG in start[2:4])
        first = layout.number(start[8:16] if layout.big else start[4:8])
        pixel_bytes = sum(_page_bytes(layout, tags) for tags in _pages(layout, first))
    check_voxel_bytes(pixel_bytes, file)
    return pixel_bytes


def damaged(file: Path, problem: str, found: object) -> SegflowError:
    """The error for a picture that contradicts itself."""
    return SegflowError(f"cannot read {file}: {problem}", found=found, fix=RESAVE)


def _pages(layout: _Layout, first: int) -> Iterator[dict[int, tuple[int, ...]]]:
    """The tags of each page, with those of inner pages."""
    waiting, seen, used = [first], set[int](), 0
    count_bytes, tag_bytes, offset_bytes = (8, 20, 8) if layout.big else (2, 12, 4)
    while waiting:
        offset = waiting.pop()
        while offset:
            if offset in seen:
                raise damaged(layout.file, "its pages go in a circle", f"page {len(seen) + 1} is an earlier one")
            seen.add(offset)
            count = layout.number(layout.read(offset, count_bytes))
            used += count_bytes + count * tag_bytes
            if not 1 <= count <= MOST_VALUES or used > layout.size:
                raise damaged(layout.file, "a page has an impossible number of tags", count)
            content = layout.read(offset + count_bytes, count * tag_bytes)
            tags = _tags(layout, [content[i : i + tag_bytes] for i in range(0, len(content), tag_bytes)])
            waiting.extend(inner for inner in tags.get(INNER_PAGES, ()) if inner)
            yield tags
            end = offset + count_bytes + count * tag_bytes
            # Some writers leave the last offset out at the very end of a file.
            offset = layout.number(layout.read(end, offset_bytes)) if end + offset_bytes <= layout.size else 0


def _tags(layout: _Layout, entries: list[bytes]) -> dict[int, tuple[int, ...]]:
    """The values of the tags for the size of a page and its inner pages."""
    tags: dict[int, tuple[int, ...]] = {}
    half = 8 if layout.big else 4
    for entry in entries:
        code, kind = layout.number(entry[:2]), layout.number(entry[2:4])
        if code not in (WIDTH, LENGTH, BITS, SAMPLES, INNER_PAGES) or code in tags:
            continue
        count = layout.number(entry[4 : 4 + half])
        if kind not in INTEGERS or not 1 <= count <= MOST_VALUES:
            raise damaged(layout.file, f"tag {code} of a page is impossible", f"{count} numbers of kind {kind}")
        length = count * ITEM_BYTES[kind]
        value = entry[4 + half :]
        content = value[:length] if length <= half else layout.read(layout.number(value), length)
        tags[code] = struct.unpack(f"{layout.order}{count}{INTEGERS[kind]}", content)
    return tags


def _page_bytes(layout: _Layout, tags: dict[int, tuple[int, ...]]) -> int:
    width, length = (tags.get(code, (0,))[0] for code in (WIDTH, LENGTH))
    if not (1 <= width <= MOST_SIDE and 1 <= length <= MOST_SIDE):
        raise damaged(layout.file, "a page has no possible size", f"{width} x {length}")
    samples, bits = tags.get(SAMPLES, (1,))[0], max(tags.get(BITS, (1,)))
    if not (1 <= samples <= MOST_VALUES and 1 <= bits <= 128):
        raise damaged(layout.file, "a page has impossible pixels", f"{samples} samples of {bits} bits")
    return math.ceil(width * length * samples * bits / 8)
