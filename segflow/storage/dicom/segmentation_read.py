"""Reading of DICOM-SEG objects: BINARY, FRACTIONAL and LABELMAP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.names import shortened
from segflow.storage.dicom.frames import stored_frames
from segflow.storage.dicom.grid import Grid, Plane
from segflow.storage.dicom.name_map import NameMapBuilder
from segflow.storage.dicom.object_file import first_of, items_of, numbers_of, object_file

if TYPE_CHECKING:
    from pydicom import Dataset

BINARY, FRACTIONAL, LABELMAP = TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")
ROOM = 2
"""A frame has at most this many times the rows and columns of the longest axis of the series."""

NameOf = Callable[[str], str | None]
"""Name of a segment in its file → its name here, or None if it is left out."""


def add_segmentation(file: Path, grid: Grid, name_of: NameOf, target: NameMapBuilder) -> None:
    """Add the segments of a DICOM-SEG file to a map.

    Frames are placed by their own positions. A pixel of a FRACTIONAL segment belongs to it from more than half of the
    largest value on. Segments of one name are united.

    Args:
        file: The file.
        grid: The grid of the series.
        name_of: See `NameOf`.
        target: Takes the voxels.

    Raises:
        SegflowError: The file cannot be read, or a segment does not lie on the grid. The error names the file.
    """
    with object_file(file) as dataset:
        kind = str(dataset.get("SegmentationType", "")).upper()
        if kind not in TYPES:
            raise SegflowError("the type of the segmentation is unknown", found=kind, expected=" | ".join(TYPES))
        grid.check_frame(str(dataset.get("FrameOfReferenceUID") or ""))
        names = {number: name_of(label) for number, label in segment_labels(dataset).items()}
        for name in dict.fromkeys(names.values()):
            if name is not None:
                target.add(name, np.zeros(0, np.int64))
        for number, (groups, pixels) in enumerate(_frames(dataset, grid, file), 1):
            try:
                for segment, mask in _masks(dataset, kind, groups, pixels):
                    if segment not in names:
                        raise SegflowError(
                            "a frame belongs to a segment that is not described",
                            found=segment,
                            expected=shortened(sorted(names)),
                        )
                    name = names[segment]
                    if name is not None and mask.any():
                        target.add(name, grid.voxels_of(mask, _plane(groups, mask)))
            except SegflowError as error:
                raise error.changed(problem=f"frame {number}: {error.problem}") from error


def segment_labels(dataset: Dataset) -> dict[int, str]:
    """Number → name of each segment, without the background of a LABELMAP.

    Raises:
        SegflowError: There is none, or a number occurs twice.
    """
    labels: dict[int, str] = {}
    for item in items_of(dataset, "SegmentSequence"):
        number = int(item.SegmentNumber)
        if number in labels:
            raise SegflowError("two segments have the same number", found=number)
        labels[number] = str(item.get("SegmentLabel") or f"segment {number}").strip()
    labels.pop(0, None)
    if not labels:
        raise SegflowError("the file describes no segment", expected="SegmentSequence")
    return labels


class _Groups:
    """Functional groups of a frame: its own, else those that all frames share."""

    def __init__(self, *groups: Dataset | None) -> None:
        self._groups = groups

    def item(self, sequence: str, fix: str | None = None) -> Dataset:
        for group in self._groups:
            if group is not None and group.get(sequence):
                found: Dataset = group[sequence].value[0]
                return found
        raise SegflowError(f"the frame has no {sequence}", fix=fix)


def _frames(dataset: Dataset, grid: Grid, file: Path) -> Iterator[tuple[_Groups, np.ndarray]]:
    """Functional groups and pixels (rows, columns) of each frame, one at a time."""
    rows, columns, count = (int(dataset.get(name) or 0) for name in ("Rows", "Columns", "NumberOfFrames"))
    most = ROOM * max(grid.shape)
    if not (0 < rows <= most and 0 < columns <= most):
        raise SegflowError(
            "the frames have another size than the series",
            found=f"{rows} rows, {columns} columns",
            expected=f"about {grid.shape[1]} rows, {grid.shape[2]} columns",
        )
    own = items_of(dataset, "PerFrameFunctionalGroupsSequence")
    if len(own) != count:
        raise SegflowError("the number of frames is unclear", found=f"{len(own)} described", expected=count)
    if not count:
        return
    shared = first_of(dataset, "SharedFunctionalGroupsSequence")
    packed = int(dataset.get("BitsAllocated") or 0) == 1
    pixels = _bits(dataset, count, rows, columns) if packed else stored_frames(file, range(count))[0]
    for groups, one in zip(own, pixels, strict=True):
        yield _Groups(groups, shared), one


def _bits(dataset: Dataset, count: int, rows: int, columns: int) -> Iterator[np.ndarray]:
    """Frames of one bit per pixel. They follow each other without a gap, so that one may begin within a byte."""
    data, size = dataset.get("PixelData"), rows * columns
    if (
        not isinstance(data, bytes)
        or len(data) * 8 < count * size
        or dataset.file_meta.TransferSyntaxUID.is_encapsulated
    ):
        raise SegflowError(
            "the pixels cannot be read",
            found=f"{len(data) if isinstance(data, bytes) else 0} bytes",
            expected=f"{-(-count * size // 8)} bytes, one bit per pixel and not compressed",
            fix="Is the file complete? Copy or export it again.",
        )
    stored = np.frombuffer(data, np.uint8)
    for start in range(0, count * size, size):
        bits = np.unpackbits(stored[start // 8 : -(-(start + size) // 8)], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(rows, columns)


def _masks(dataset: Dataset, kind: str, groups: _Groups, pixels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Number and bool (rows, columns) of each segment in a frame."""
    if kind == LABELMAP:
        for value in np.unique(pixels[pixels != 0]).tolist():
            yield int(value), pixels == value
        return
    segment = int(groups.item("SegmentIdentificationSequence").ReferencedSegmentNumber)
    if kind == BINARY:
        yield segment, pixels != 0
        return
    yield segment, pixels > int(dataset.MaximumFractionalValue) / 2


def _plane(groups: _Groups, mask: np.ndarray) -> Plane:
    position = numbers_of(groups.item("PlanePositionSequence"), "ImagePositionPatient", 3)
    cosines = numbers_of(groups.item("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    between_rows, between_columns = numbers_of(groups.item("PixelMeasuresSequence"), "PixelSpacing", 2)
    return Plane(position, cosines[:3] * between_columns, cosines[3:] * between_rows, *mask.shape)
