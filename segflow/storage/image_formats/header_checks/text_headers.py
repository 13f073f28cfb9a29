"""Common parts of MetaImage's and NRRD's text headers: numbers, and names of voxel files."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from segflow.core.errors import SegflowError
from segflow.storage.image_formats.contract import FLAT, LEAST_MM, MOST_MM, RESAVE
from segflow.storage.image_formats.inflate import MOST_TIMES, SURPLUS_BYTES, truncated
from segflow.storage.regular_files import check_regular, check_voxel_bytes, file_beside

MOST_AXES = 5
"""Most axes that ITK reads, as built for SimpleITK."""
MOST_CHANNELS = 65535
HEADER_BYTES = 16 << 20
"""Longest header in bytes. Ultrasound sequences have a line for each frame and quantity."""
LINE_BYTES = 32000
"""Longest line in bytes; ITK's buffers for lines are about as large."""
MOST_FILES = 100_000
NUMBERED = re.compile(r"[^%]*%(0?\d)?d[^%]*")
"""A name with a place for a number: the only form that is handed to C's ``printf``."""

DEFLATE_TIMES = MOST_TIMES
TEXT_TIMES = 8
"""A number of 8 bytes may be written as one digit; the space after it is not counted."""
BZIP2_TIMES = 1 << 20
"""bzip2 packs zeros so well that the length proves nothing."""


@dataclass(frozen=True, slots=True)
class VoxelFile:
    """Bytes of voxels somewhere in a file.

    Attributes:
        path: The file.
        offset: Offset of the first byte.
        length: Number of bytes.
    """

    path: Path
    offset: int
    length: int


def header_error(file: Path, problem: str, found: object, expected: object = None) -> SegflowError:
    """The error for a header that is wrong."""
    return SegflowError(f"cannot read {file}: {problem}", found=_shown(found), expected=expected, fix=RESAVE)


def read_line(stream: BinaryIO, file: Path) -> str | None:
    """The next line of a text header without its end; None at the end of the file.

    Raises:
        SegflowError: It is too long, is not text, or the header does not end.
    """
    line = stream.readline(LINE_BYTES + 1)
    if not line:
        return None
    if len(line) > LINE_BYTES or stream.tell() > HEADER_BYTES:
        raise header_error(file, "its header does not end", f"{stream.tell()} bytes of it")
    text = line.decode("latin-1").removesuffix("\n").removesuffix("\r")
    if any(ord(sign) < 32 and sign != "\t" for sign in text):
        raise header_error(file, "its header holds bytes that are not text", text)
    return text


def whole_numbers(file: Path, name: str, text: str, least: int, most: int) -> list[int]:
    """Whole numbers of a field, separated by spaces.

    Raises:
        SegflowError: One is not, or lies outside the bounds.
    """
    words = text.split()
    if not words or not all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in words):
        raise header_error(file, f"{name} in its header is not a whole number", text)
    numbers = [int(word) for word in words]
    if not all(least <= number <= most for number in numbers):
        raise header_error(file, f"{name} in its header is impossible", text, f"{least} to {most}")
    return numbers


def whole_number(file: Path, name: str, text: str, least: int, most: int) -> int:
    """The one whole number of a field.

    Raises:
        SegflowError: It is none, there are several, or it lies outside the bounds.
    """
    numbers = whole_numbers(file, name, text, least, most)
    if len(numbers) != 1:
        raise header_error(file, f"{name} in its header is not one number", text)
    return numbers[0]


def lengths(file: Path, name: str, text: str) -> list[float]:
    """Numbers of a field, separated by spaces: finite, and within the bounds of lengths.

    Raises:
        SegflowError: One is not.
    """
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = [math.nan]
    if not all(abs(number) <= MOST_MM for number in numbers):  # false for NaN
        raise header_error(file, f"{name} in its header is not a number, or beyond all bounds", text)
    return numbers


def check_directions(file: Path, name: str, rows: Sequence[Sequence[float]]) -> None:
    """Refuse axes that do not span space, since ITK divides by the volume that they span.

    Raises:
        SegflowError: They do not.
    """
    matrix = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(matrix, axis=1)
    if norms.min() < LEAST_MM:
        raise header_error(file, f"{name} in its header has an axis without direction", matrix.tolist())
    directions = matrix / norms[:, None]
    if np.sqrt(max(0.0, np.linalg.det(directions @ directions.T))) < FLAT:
        raise header_error(file, f"{name} in its header has axes that do not span space", matrix.tolist())


def named_files(file: Path, text: str, following: Sequence[str]) -> list[Path]:
    """The voxel files that a header names. All must be regular files beside it.

    Args:
        file: The header's file.
        text: Value of its field: a name, ``LIST``, or a name with ``%d``, then first number, last number and step.
        following: The lines after the field; they are the names if it is ``LIST``.

    Raises:
        SegflowError: A name leads elsewhere, a file is not a regular one, or the form is unknown.
    """
    if text.startswith("LIST"):
        names = [line.strip() for line in following if line.strip()]
    elif "%" in text:
        words = text.split()
        if not NUMBERED.fullmatch(words[0]) or not all(re.fullmatch(r"\d{1,9}", word) for word in words[1:]):
            raise header_error(
                file, "its voxels lie in files that cannot be told", text, "name%03d.raw first last step"
            )
        first, last, step = ([int(word) for word in words[1:4]] + [1, 1, 1][len(words) - 1 :])[:3]
        numbers = range(first, last + 1, max(1, step))
        names = [words[0] % number for number in numbers[: MOST_FILES + 1]]
    else:
        names = [text]
    if not 1 <= len(names) <= MOST_FILES or "-" in names:  # "-" is the standard input to some
        raise header_error(file, "its voxels lie in files that cannot be told", text)
    return [file_beside(file, name) for name in names]


def check_length(file: Path, parts: Sequence[VoxelFile], voxel_bytes: int, times: int) -> None:
    """Refuse a file that is too short for its voxels, or whose voxels do not fit into memory.

    Args:
        file: Named in the error.
        parts: The places of its voxels.
        voxel_bytes: Their number of bytes by the header.
        times: Bytes that one byte of the file can unpack to, at most; 1 if it is not packed.

    Raises:
        SegflowError: There are fewer bytes than that.
    """
    there = sum(max(0, part.length) for part in parts)
    if there * times < voxel_bytes:
        packed = "" if times == 1 else "packed "
        raise truncated(file, f"{there} {packed}bytes of voxels", f"{voxel_bytes} bytes")
    if times > TEXT_TIMES and there > voxel_bytes + SURPLUS_BYTES:  # packed bytes should be fewer
        raise header_error(file, "it holds far more than its header asks for", f"{there} packed bytes", voxel_bytes)
    check_voxel_bytes(voxel_bytes, file)


def whole_file(path: Path, offset: int = 0) -> VoxelFile:
    """The bytes of a regular file from an offset on."""
    return VoxelFile(path, offset, check_regular(path) - offset)


def rest_of(stream: BinaryIO, file: Path) -> VoxelFile:
    """The bytes of an open file from the current position on."""
    return VoxelFile(file, stream.tell(), os.fstat(stream.fileno()).st_size - stream.tell())


def _shown(found: object) -> str:
    text = str(found)
    return repr(text if len(text) <= 120 else text[:117] + "…")
