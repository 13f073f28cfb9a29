"""MetaImage (.mha, .mhd): lines ``key = value``. The last one says where the voxels are."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import BinaryIO

from segflow.storage.image_formats.contract import check_spacing
from segflow.storage.image_formats.header_checks.text_headers import (
    DEFLATE_TIMES,
    MOST_AXES,
    MOST_CHANNELS,
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

LINE = re.compile(r"\s*([^=:]*?)\s*[=:](.*)", re.DOTALL)
LAST = "ElementDataFile"
DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
PLACES = ("Offset", "Position", "Origin", "CenterOfRotation", "ImagePosition")
SPACINGS = ("ElementSpacing", "ElementSize")
OTHER_NUMBERS = {
    **dict.fromkeys(("ID", "ParentID", "ElementMin", "ElementMax", "ElementNBits"), 1),
    **dict.fromkeys(("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"), 1),
    **dict.fromkeys(("Color", "SequenceID"), 4),
}
"""Fields that are not used here, with their count of numbers. If a number is missing, ITK reads on in the lines below,
which it then does not take for fields."""
FIELDS = (
    *("NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "CompressedData", "CompressedDataSize"),
    *("HeaderSize", "BinaryData", "ObjectType", LAST, *DIRECTIONS, *PLACES, *SPACINGS, *OTHER_NUMBERS),
)
"""Fields that ITK knows, except texts."""
TEXTS = (
    *("Comment", "AcquisitionDate", "ObjectType", "ObjectSubType", "TransformType", "Name", "DistanceUnits"),
    *("AnatomicalOrientation", "Modality", "ElementType", "BinaryData", "CompressedData", "ElementByteOrderMSB"),
    *("BinaryDataByteOrderMSB", LAST),
)
TEXT_BYTES = 200
"""Longest text and longest name of a field. ITK keeps 255 characters; a longer name ends the process."""
ITEM_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR", "MET_ASCII_CHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
LOCAL = ("LOCAL", "Local", "local")


def check_metaimage(file: Path) -> int:
    """Check a MetaImage header as strictly as its reader should.

    Returns:
        Bytes of its voxels.

    Raises:
        SegflowError: A field is missing, given twice or impossible, the file is too short, or the voxels lie in files
            that are not beside it.
    """
    with open_regular(file) as stream:
        fields = _fields(stream, file)
        axes = whole_number(file, "NDims", fields.get("NDims", ""), 2, MOST_AXES)
        size = whole_numbers(file, "DimSize", fields.get("DimSize", ""), 1, 2**31 - 1)
        if len(size) != axes:
            raise header_error(file, "DimSize in its header does not fit NDims", fields["DimSize"], f"{axes} numbers")
        _check_place(file, fields, axes)
        name = fields.get("ElementType", "").strip().removesuffix("_ARRAY")
        if name not in ITEM_BYTES:
            raise header_error(file, "ElementType in its header is not known", name, " | ".join(ITEM_BYTES))
        named = fields.get("ElementNumberOfChannels", "1")
        channels = whole_number(file, "ElementNumberOfChannels", named, 1, MOST_CHANNELS)
        voxel_bytes = math.prod(size) * channels * ITEM_BYTES[name]
        check_length(file, _voxel_files(stream, file, fields), voxel_bytes, _times(fields))
        return voxel_bytes


def files_beside_metaimage(file: Path) -> tuple[Path, ...]:
    """The files with the voxels, if the header's own file does not hold them.

    Raises:
        SegflowError: The header cannot be read, or names files that are not beside it.
    """
    with open_regular(file) as stream:
        parts = _voxel_files(stream, file, _fields(stream, file))
    return tuple(part.path for part in parts if part.path != file)


def _fields(stream: BinaryIO, file: Path) -> dict[str, str]:
    fields: dict[str, str] = {}
    while (line := read_line(stream, file)) is not None:
        if not line.strip():
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise header_error(file, "a line of its header is not a field", line, "key = value")
        name, value = match[1], match[2].strip()
        if len(name) > TEXT_BYTES or (name in TEXTS and len(value) > TEXT_BYTES):
            raise header_error(file, "a line of its header is too long", line, f"at most {TEXT_BYTES} letters")
        if name in FIELDS and name in fields:
            raise header_error(file, f"its header says {name} twice", f"{fields[name]}, {value}")
        fields[name] = value
        if name == LAST:
            return fields
    raise header_error(file, f"its header has no {LAST}", f"{len(fields)} fields", "MetaImage")


def _check_place(file: Path, fields: dict[str, str], axes: int) -> None:
    for name in SPACINGS:
        if name in fields:
            spacing = lengths(file, name, fields[name])
            check_spacing(spacing, file)
            _count(file, name, spacing, axes)
    for name in PLACES:
        if name in fields:
            _count(file, name, lengths(file, name, fields[name]), axes)
    for name, count in OTHER_NUMBERS.items():
        if name in fields:
            _count(file, name, lengths(file, name, fields[name]), count)
    for name in DIRECTIONS:
        if name in fields:
            numbers = lengths(file, name, fields[name])
            _count(file, name, numbers, axes * axes)
            check_directions(file, name, [numbers[i * axes : (i + 1) * axes] for i in range(axes)])


def _count(file: Path, name: str, numbers: list[float], expected: int) -> None:
    if len(numbers) != expected:
        raise header_error(file, f"{name} in its header has the wrong count of numbers", numbers, expected)


def _voxel_files(stream: BinaryIO, file: Path, fields: dict[str, str]) -> list[VoxelFile]:
    """The places of the voxels, in one file or several."""
    skipped = whole_number(file, "HeaderSize", fields.get("HeaderSize", "0"), -1, 2**62)
    where = fields[LAST]
    if where in LOCAL:
        rest = rest_of(stream, file)
        return [VoxelFile(rest.path, rest.offset, min(rest.length, _packed_bytes(file, fields, rest.length)))]
    following: list[str] = []
    while where.startswith("LIST") and (line := read_line(stream, file)) is not None:
        following.append(line)
    return [whole_file(path, max(0, skipped)) for path in named_files(file, where, following)]


def _packed_bytes(file: Path, fields: dict[str, str], there: int) -> int:
    """Number of packed bytes to read; the header may give it, else it is all that are there."""
    if "CompressedDataSize" not in fields:
        return there
    packed = whole_number(file, "CompressedDataSize", fields["CompressedDataSize"], 0, 2**62)
    if _is_true(fields, "CompressedData") and packed > there:
        raise header_error(file, "CompressedDataSize in its header is more than the file holds", packed, there)
    return packed or there


def _times(fields: dict[str, str]) -> int:
    if _is_true(fields, "CompressedData"):
        return DEFLATE_TIMES
    return 1 if _is_true(fields, "BinaryData") else TEXT_TIMES


def _is_true(fields: dict[str, str], name: str) -> bool:
    return fields.get(name, "")[:1] in ("T", "t", "1")
