"""NRRD (.nrrd, .nhdr): lines ``field: value`` up to an empty line. The voxels follow, or lie in files of their own."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import BinaryIO

from segflow.storage.image_formats.contract import check_spacing
from segflow.storage.image_formats.header_checks.text_headers import (
    BZIP2_TIMES,
    DEFLATE_TIMES,
    MOST_AXES,
    TEXT_TIMES,
    VoxelFile,
    check_directions,
    check_length,
    header_error,
    lengths,
    named_files,
    read_line,
    rest_of,
    whole_file,
    whole_number,
    whole_numbers,
)
from segflow.storage.regular_files import open_regular

MAGIC = re.compile(r"NRRD000[1-5]")
ITEM_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"), 8),
    **dict.fromkeys(("uint64", "uint64_t", "double", "float64"), 8),
    **dict.fromkeys(("float", "float32"), 4),
}
TIMES = {
    **dict.fromkeys(("raw",), 1),
    **dict.fromkeys(("txt", "text", "ascii", "hex"), TEXT_TIMES),
    **dict.fromkeys(("gz", "gzip"), DEFLATE_TIMES),
    **dict.fromkeys(("bz2", "bzip2"), BZIP2_TIMES),
}
"""Encoding → bytes that one byte of the file can unpack to, at most."""
NUMBERS = ("axismins", "axismaxs", "thicknesses", "min", "max", "oldmin", "oldmax")
VECTOR = re.compile(r"none|\(([^()]*)\)")
FIELD_BYTES = 900
"""ITK copies a line that it does not understand into a buffer of 1024 bytes; a longer line ends the process."""
MOST_SKIPPED = 1 << 20


def check_nrrd(file: Path) -> int:
    """Check a NRRD header as strictly as its reader should.

    Returns:
        Bytes of its voxels.

    Raises:
        SegflowError: A field is missing, given twice or impossible, the file is too short, or the voxels lie in files
            that are not beside it.
    """
    with open_regular(file) as stream:
        fields, following = _fields(stream, file)
        axes = whole_number(file, "dimension", fields.get("dimension", ""), 1, MOST_AXES + 1)
        size = whole_numbers(file, "sizes", fields.get("sizes", ""), 1, 2**31 - 1)
        if len(size) != axes:
            raise header_error(file, "sizes in its header does not fit dimension", fields["sizes"], f"{axes} numbers")
        kind, encoding = fields.get("type", "").lower(), fields.get("encoding", "").lower()
        if kind not in ITEM_BYTES:
            raise header_error(file, "type in its header is not known", kind, "a whole or real number")
        if encoding not in TIMES:
            raise header_error(file, "encoding in its header is not known", encoding, " | ".join(TIMES))
        _check_place(file, fields, axes)
        voxel_bytes = math.prod(size) * ITEM_BYTES[kind]
        parts = _voxel_files(stream, file, fields, following)
        check_length(file, parts, voxel_bytes, TIMES[encoding])
        return voxel_bytes


def files_beside_nrrd(file: Path) -> tuple[Path, ...]:
    """The files with the voxels, if the header's own file does not hold them.

    Raises:
        SegflowError: The header cannot be read, or names files that are not beside it.
    """
    with open_regular(file) as stream:
        parts = _voxel_files(stream, file, *_fields(stream, file))
    return tuple(part.path for part in parts if part.path != file)


def _fields(stream: BinaryIO, file: Path) -> tuple[dict[str, str], list[str]]:
    """The fields, by names without spaces; and the lines that follow the field of a file list."""
    first = read_line(stream, file)
    if first is None or not MAGIC.fullmatch(first.strip()):
        raise header_error(file, "it is not a NRRD file", first)
    fields: dict[str, str] = {}
    following: list[str] = []
    while (line := read_line(stream, file)) is not None:
        if fields.get("datafile", "").startswith("LIST"):
            following.append(line)
            continue
        if not line:
            break
        if line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise header_error(file, "a line of its header is not a field", line, "field: value")
        if value.startswith("="):  # a note, which readers skip
            continue
        name = "".join(name.lower().split())
        if not line.startswith("content: ") and len(line) > FIELD_BYTES:
            raise header_error(file, "a line of its header is too long", line, f"at most {FIELD_BYTES} letters")
        if name in fields:
            raise header_error(file, f"its header says '{name}' twice", f"{fields[name]}, {value}")
        fields[name] = value.strip()
    return fields, following


def _check_place(file: Path, fields: dict[str, str], axes: int) -> None:
    if "spacings" in fields:
        words = fields["spacings"].split()
        if len(words) != axes:
            raise header_error(file, "spacings in its header does not fit dimension", fields["spacings"])
        known = " ".join(word for word in words if word.lower().lstrip("+-") != "nan")  # not a spatial axis
        check_spacing([abs(number) for number in lengths(file, "spacings", known)], file)
    for name in NUMBERS:
        known = " ".join(word for word in fields.get(name, "").split() if word.lower().lstrip("+-") != "nan")
        lengths(file, name, known)
    if "spacedirections" in fields:
        rows = _vectors(file, "space directions", fields["spacedirections"])
        if len(rows) != axes:
            raise header_error(file, "space directions in its header do not fit dimension", fields["spacedirections"])
        check_directions(file, "space directions", [row for row in rows if row])
    for name in ("spaceorigin", "measurementframe"):
        if name in fields:
            _vectors(file, name, fields[name])


def _vectors(file: Path, name: str, text: str) -> list[list[float]]:
    """``(a,b,c) none (d,e,f)`` as numbers. All vectors have the same length, except ``none``, which is empty."""
    rows = [
        lengths(file, name, match[1].replace(",", " ")) if match[1] is not None else []
        for match in VECTOR.finditer(text)
    ]
    if VECTOR.sub("", text).strip() or len({len(row) for row in rows if row}) != 1:
        raise header_error(file, f"{name} in its header are not vectors", text, "(x,y,z) (x,y,z) (x,y,z)")
    return rows


def _voxel_files(stream: BinaryIO, file: Path, fields: dict[str, str], following: list[str]) -> list[VoxelFile]:
    whole_number(file, "line skip", fields.get("lineskip", "0"), 0, MOST_SKIPPED)
    skipped = whole_number(file, "byte skip", fields.get("byteskip", "0"), -1, 2**40)
    if "datafile" not in fields:
        rest = rest_of(stream, file)
        return [VoxelFile(file, rest.offset, rest.length - max(0, skipped))]
    return [whole_file(path, max(0, skipped)) for path in named_files(file, fields["datafile"], following)]
