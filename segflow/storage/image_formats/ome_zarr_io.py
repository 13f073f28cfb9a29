"""OME-Zarr 0.4 and 0.5: chunked images in folders, for any size."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.voxels import VoxelSink
from segflow.storage.image_formats.contract import RESAVE, ImageFormat, ImageHeader, OpenFile
from segflow.storage.image_formats.ome_zarr.array_metadata import ArrayMetadata, read_array_metadata
from segflow.storage.image_formats.ome_zarr.chunked_array import KEPT_BYTES, ChunkedArray
from segflow.storage.image_formats.ome_zarr.multiscales import CHANNEL, SPACE, TIME, Multiscale, read_multiscale
from segflow.storage.image_formats.ome_zarr.writing import ENDINGS, zarr_sink
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO
from segflow.storage.listing import missing_file
from segflow.storage.regular_files import check_voxel_bytes

log = logging.getLogger(__name__)


class OMEZarrIO(ImageFormat):
    """The finest level of an image. Axes may stand in any order; an image without z gets z = 1, and t has length 1.

    A chunk that is not stored has the array's fill value, as Zarr defines it. Label maps often lack empty chunks. Of an
    image, missing chunks are counted in a warning, since an incomplete copy looks the same.
    """

    name = "OMEZarrIO"
    endings = ENDINGS
    other_labels = SimpleITKIO()
    kept_bytes = KEPT_BYTES

    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _whole(self.open_file(file), file)

    def read_label_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _whole(self.open_file(file, labels=True), file)

    def read_header(self, file: Path) -> ImageHeader:
        """Read the metadata, without the chunks.

        Raises:
            SegflowError: It is missing, or cannot be used.
        """
        image, metadata = _described(file)
        channels, *shape = _shape(image, metadata, file)
        return ImageHeader((shape[0], shape[1], shape[2]), channels, image.geometry(), metadata.dtype.name)

    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        z, y, x = values.shape
        with zarr_sink(file, (z, y, x), values.dtype, geometry) as sink:
            sink.write(Box.whole(values.shape), values)

    def open_file(self, file: Path, *, labels: bool = False) -> OpenFile:
        image, metadata = _described(file)
        shape = _shape(image, metadata, file)
        array = ChunkedArray(file / image.path, metadata, image.names.index("z" if "z" in image.names else "y"))
        missing = array.missing_files()
        if missing:
            _judge_missing(file, missing, metadata, labels=labels)
        return _OpenZarr(array, image, shape)

    def create_file(
        self, file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry
    ) -> AbstractContextManager[VoxelSink]:
        return zarr_sink(file, shape, dtype, geometry)


class _OpenZarr:
    """An open image. See `OpenFile`."""

    def __init__(self, array: ChunkedArray, image: Multiscale, shape: tuple[int, int, int, int]) -> None:
        self.shape = shape
        self.geometry = image.geometry()
        self.dtype = array.metadata.dtype
        self._array = array
        self._names = image.names
        chunk = dict(zip(image.names, array.metadata.chunk, strict=True))
        z, y, x = (chunk.get(name, 1) for name in SPACE)
        self.chunk: tuple[int, int, int] | None = (z, y, x)
        if shape[0] * z * math.prod(shape[2:]) * self.dtype.itemsize <= KEPT_BYTES:
            self.chunk = None  # the chunks along a slice are kept anyway

    def read(self, box: Box) -> np.ndarray:
        """See `OpenFile.read`."""
        wanted = {TIME: (0, 1), CHANNEL: (0, self.shape[0])}
        wanted |= {name: (box.start[k], box.stop[k]) for k, name in enumerate(SPACE)}
        own = Box(tuple(wanted[name][0] for name in self._names), tuple(wanted[name][1] for name in self._names))
        values = self._array.read(own)
        present = [name for name in (TIME, CHANNEL, *SPACE) if name in self._names]
        values = values.transpose([self._names.index(name) for name in present])
        return values.reshape(self.shape[0], *box.shape)

    def close(self) -> None:
        """Nothing is open between two reads."""


def _described(file: Path) -> tuple[Multiscale, ArrayMetadata]:
    if not file.exists():
        raise missing_file(file)
    if not file.is_dir():
        raise SegflowError(f"cannot read {file}", found="a file", expected="a folder, as OME-Zarr images are")
    image = read_multiscale(file)
    return image, read_array_metadata(file / image.path)


def _shape(image: Multiscale, metadata: ArrayMetadata, file: Path) -> tuple[int, int, int, int]:
    """Channels, and voxels along z, y, x."""
    if len(metadata.shape) != len(image.names):
        raise SegflowError(
            f"{file} has another number of axes than its array",
            found=f"axes {' '.join(image.names)}, shape {metadata.shape}",
            fix=RESAVE,
        )
    lengths = dict(zip(image.names, metadata.shape, strict=True))
    if lengths.get(TIME, 1) != 1:
        raise SegflowError(
            f"{file} is a series of images", found=f"{lengths[TIME]} points of time", expected="one", fix="Split it."
        )
    return lengths.get(CHANNEL, 1), lengths.get("z", 1), lengths["y"], lengths["x"]


def _judge_missing(file: Path, missing: int, metadata: ArrayMetadata, *, labels: bool) -> None:
    total = math.prod(metadata.files)
    if metadata.fill is None or (missing == total and not labels):
        raise SegflowError(
            f"{file} lacks chunks"
            + (", and has no value for those that are missing" if metadata.fill is None else ": it has none at all"),
            found=f"{missing} of {total} missing",
            fix=RESAVE,
        )
    if not labels:
        log.warning(
            "%s: %d of %d chunks are missing and read as %s; is the copy complete?", file, missing, total, metadata.fill
        )


def _whole(opened: OpenFile, file: Path) -> tuple[np.ndarray, Geometry]:
    check_voxel_bytes(math.prod(opened.shape) * opened.dtype.itemsize, file)
    return opened.read(Box.whole(opened.shape[1:])), opened.geometry
