"""NIfTI files that are read and written box by box, in memory that their size does not decide.

A packed file is unpacked once to a temporary file. A file that is written packed takes boxes that come in its own order
as they come; from the first one that does not, all wait in a temporary file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from isal import igzip

from segflow.core.geometry import Box, Geometry
from segflow.core.voxels import VoxelSink
from segflow.storage.image_formats.contract import ImageHeader, unreadable
from segflow.storage.image_formats.inflate import inflate
from segflow.storage.image_formats.nifti_files import (
    FAST_LEVEL,
    NiftiHeader,
    header_of,
    holds_packed,
    is_packed,
    scaled,
    start_bytes,
    whole_numbers,
)
from segflow.storage.image_formats.nifti_forms import forms_of
from segflow.storage.image_formats.placement import affine_of, file_ndim
from segflow.storage.image_formats.stored_voxels import StoredVoxels
from segflow.storage.json_files import written_whole
from segflow.storage.regular_files import open_regular
from segflow.storage.scratch_files import check_space, scratch_file


class NiftiBoxes:
    """An open NIfTI file. See `OpenFile`. The file is opened once, for its header and its voxels.

    Args:
        file: The file.
        header_of_image: What the reader makes of the file's header.
        labels: Whether scaled values are whole numbers.

    Raises:
        SegflowError: The file is missing, damaged, truncated or not NIfTI.
    """

    def __init__(self, file: Path, header_of_image: Callable[[NiftiHeader], ImageHeader], *, labels: bool) -> None:
        self._file = file
        self._labels = labels
        with ExitStack() as stack:
            stream = stack.enter_context(open_regular(file))
            self._nifti = nifti = header_of(stream, file)
            header = header_of_image(nifti)
            self._stream = _ready(stream, file, nifti)
            if self._stream is stream:
                stack.pop_all()
        self.shape = (header.channels, *header.shape)
        self.geometry: Geometry = header.geometry
        kind = np.dtype(np.int64 if labels else np.float32)
        self.dtype: np.dtype = kind if nifti.is_scaled else nifti.dtype
        self._voxels = StoredVoxels(self._stream, file, nifti.offset, self.shape, nifti.dtype)

    def read(self, box: Box) -> np.ndarray:
        """See `OpenFile.read`."""
        stored = self._voxels.read(box)
        if not self._nifti.is_scaled:
            return stored
        if self._labels:
            return whole_numbers(self._nifti, stored, self._file)
        result = np.empty(stored.shape, np.float32)
        for plane in np.ndindex(stored.shape[:2]):  # all at once would take eight bytes a voxel besides
            result[plane] = scaled(self._nifti, stored[plane])
        return result

    def close(self) -> None:
        """See `OpenFile.close`."""
        self._stream.close()


def _ready(stream: BinaryIO, file: Path, nifti: NiftiHeader) -> BinaryIO:
    """The stream of a plain file, or one of its unpacked content."""
    try:
        if not holds_packed(stream, nifti.end, file):
            return stream
        unpacked = scratch_file(nifti.end, f"reading {file}")
        try:
            for piece in inflate(stream, nifti.end, file):
                unpacked.write(piece)
            unpacked.flush()
        except BaseException:
            unpacked.close()
            raise
        return unpacked
    except OSError as error:
        raise unreadable(file, error) from error


@contextmanager
def nifti_sink(
    file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry, spacing: Sequence[float]
) -> Iterator[VoxelSink]:
    """Write a NIfTI file box by box, as `write_nifti` writes it at once.

    Args:
        file: Ends in .nii or .nii.gz.
        shape: Voxels along z, y, x.
        dtype: Type of the voxels.
        geometry: Geometry of the image; it decides the file's dimensions.
        spacing: mm along x, y (, z).

    Raises:
        SegflowError: The file cannot be written.
    """
    dtype = dtype.newbyteorder("<")
    stored = shape[1:] if file_ndim(geometry) == 2 else shape
    start = start_bytes(stored, dtype, affine_of(geometry), spacing, file, forms_of(geometry))
    needed = len(start) + math.prod(shape) * dtype.itemsize
    with written_whole(file, needed=needed) as temporary:
        if is_packed(file):
            with (
                temporary.open("wb") as stream,
                igzip.IGzipFile("", "wb", FAST_LEVEL, fileobj=stream, mtime=0) as zipped,
            ):
                zipped.write(start)
                sink = _PackedSink(zipped, file, shape, dtype)
                try:
                    yield sink
                    sink.finish()
                finally:
                    sink.close()
            return
        check_space(file.parent, needed, file)
        with temporary.open("w+b") as plain:
            plain.write(start)
            plain.truncate(needed)
            yield StoredVoxels(plain, file, len(start), (1, *shape), dtype)


class _PackedSink:
    """Voxels (Z, Y, X) of a packed file. See `VoxelSink`."""

    def __init__(self, zipped: igzip.IGzipFile, file: Path, shape: tuple[int, int, int], dtype: np.dtype) -> None:
        self._zipped = zipped
        self._file = file
        self._shape = shape
        self._dtype = dtype
        self._done = 0
        self._waiting: BinaryIO | None = None
        self._rest: StoredVoxels | None = None

    def write(self, box: Box, values: np.ndarray) -> None:
        """See `VoxelSink.write`."""
        whole_planes = (box.start[1:], box.stop[1:]) == ((0, 0), self._shape[1:])
        if self._rest is None and whole_planes and box.start[0] == self._done:
            self._zipped.write(np.ascontiguousarray(values, self._dtype).data.cast("B"))
            self._done = box.stop[0]
            return
        if self._rest is None:
            self._rest = self._place_for_rest()
        first = self._done
        moved = Box((box.start[0] - first, *box.start[1:]), (box.stop[0] - first, *box.stop[1:]))
        self._rest.write(moved, values)

    def finish(self) -> None:
        """Pack what is left; planes that were never written are 0."""
        empty = np.zeros((1, *self._shape[1:]), self._dtype)
        for z in range(self._shape[0] - self._done):
            plane = Box((z, 0, 0), (z + 1, *self._shape[1:]))
            self._zipped.write((empty if self._rest is None else self._rest.read(plane)).data.cast("B"))

    def close(self) -> None:
        """Delete the temporary file."""
        if self._waiting is not None:
            self._waiting.close()

    def _place_for_rest(self) -> StoredVoxels:
        shape = (1, self._shape[0] - self._done, *self._shape[1:])
        needed = math.prod(shape) * self._dtype.itemsize
        self._waiting = scratch_file(needed, f"writing {self._file}", self._file.parent)
        self._waiting.truncate(needed)
        return StoredVoxels(self._waiting, self._file, 0, shape, self._dtype)
