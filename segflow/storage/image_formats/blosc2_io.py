"""Images as blosc2 arrays (``.b2nd``): one compressed file, read and written box by box.

The spacing is the array's variable metadata ``spacing``: mm along its spatial axes, in array order. An optional
``affine`` (4, 4), voxel index (x, y, z) → RAS+ mm, places it. The library may end the process over a damaged header, so
a separate process opens each file first.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.voxels import VoxelSink
from segflow.storage.chunks import chunk_and_block
from segflow.storage.image_formats.contract import (
    RESAVE,
    ImageFormat,
    ImageHeader,
    OpenFile,
    check_affine,
    check_spacing,
    unreadable,
)
from segflow.storage.image_formats.placement import FLAT_SPACING_FACTOR, affine_of, file_ndim
from segflow.storage.image_formats.read_apart import reads_apart
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO
from segflow.storage.image_formats.stored_voxels import StoredVoxels
from segflow.storage.json_files import written_whole
from segflow.storage.kept_slabs import MOST_BYTES
from segflow.storage.regular_files import check_voxel_bytes, open_regular
from segflow.storage.scratch_files import check_space, scratch_file

SPACING, AFFINE = "spacing", "affine"
PLACED = frozenset({"affine", "direction", "origin"})
KINDS = "biuf"
MAGIC = b"b2frame\0"
FRAME_BYTES = slice(16, 24)
VOXEL_BYTES = slice(30, 38)
HEADER_BYTES = 38
CHUNK_EDGES = (64, 64, 64)
LEVEL = 1
NO_SPACING = 'array.schunk.vlmeta["spacing"] = [2.0, 0.5, 0.5]  # mm along z, y, x'


class Blosc2IO(ImageFormat):
    """Arrays (Z, Y, X), (C, Z, Y, X), or (Y, X), (C, Y, X) if the spacing has two numbers; 2D images get z = 1."""

    name = "Blosc2IO"
    endings = (".b2nd",)
    other_labels = SimpleITKIO()
    kept_bytes = MOST_BYTES

    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        opened = self.open_file(file)
        check_voxel_bytes(math.prod(opened.shape) * opened.dtype.itemsize, file)
        return opened.read(Box.whole(opened.shape[1:])), opened.geometry

    def read_header(self, file: Path) -> ImageHeader:
        """Read the metadata, without the voxels.

        Raises:
            SegflowError: The file is missing, damaged, no plain array, or without a spacing.
        """
        return _header(file)

    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        z, y, x = values.shape
        with _sink(file, (z, y, x), values.dtype, geometry) as sink:
            sink.write(Box.whole(values.shape), values)

    def open_file(self, file: Path, *, labels: bool = False) -> OpenFile:
        return _OpenArray(file, _header(file))

    def create_file(
        self, file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry
    ) -> AbstractContextManager[VoxelSink]:
        return _sink(file, shape, dtype, geometry)


class _OpenArray:
    """An open array. See `OpenFile`."""

    def __init__(self, file: Path, header: ImageHeader) -> None:
        self.shape = (header.channels, *header.shape)
        self.geometry = header.geometry
        self.dtype = np.dtype(header.dtype)
        self._file = file
        self._array = _array(file)
        z, y, x = (1, 1, *self._array.chunks)[-3:] if file_ndim(self.geometry) == 3 else (1, *self._array.chunks[-2:])
        self.chunk = (z, y, x)

    def read(self, box: Box) -> np.ndarray:
        """See `OpenFile.read`."""
        spatial = box.slices if file_ndim(self.geometry) == 3 else box.slices[1:]
        has_channels = len(self._array.shape) > len(spatial)
        try:
            values = self._array[(slice(None), *spatial) if has_channels else spatial]
        except Exception as error:  # a damaged chunk may cause any error in the library
            raise unreadable(self._file, error) from error
        return np.asarray(values).reshape(self.shape[0], *box.shape)

    def close(self) -> None:
        """See `OpenFile.close`."""
        self._array = None


def _check(file: Path) -> int:
    """Check the first bytes of a file before the library reads them. Returns the bytes of its voxels."""
    from segflow.storage.array_files import refuse_objects

    with open_regular(file) as stream:
        start = stream.read(HEADER_BYTES)
        there = os.fstat(stream.fileno()).st_size
        if start[2:10] != MAGIC or len(start) < HEADER_BYTES:
            raise SegflowError(f"cannot read {file}: it is no blosc2 array", found=start[:10], fix=RESAVE)
        length = int.from_bytes(start[FRAME_BYTES], "big")
        if length != there:
            raise SegflowError(
                f"cannot read {file}: it is truncated", found=f"{there} bytes", expected=length, fix=RESAVE
            )
        try:
            refuse_objects(stream)
        except ValueError as error:
            raise SegflowError(f"cannot read {file}: {error}", expected="numbers alone", fix=RESAVE) from error
    return min(int.from_bytes(start[VOXEL_BYTES], "big"), there)  # only the header is read apart


@reads_apart(_check)
def _header(file: Path) -> ImageHeader:
    array = _array(file)
    if array.dtype.kind not in KINDS or array.dtype.fields is not None:
        raise SegflowError(f"{file.name} holds no numbers", found=str(array.dtype), expected="one number per voxel")
    geometry = _geometry(array, file)
    ndim = file_ndim(geometry)
    shape = tuple(int(n) for n in array.shape)
    if not ndim <= len(shape) <= ndim + 1 or min(shape) < 1:
        raise SegflowError(
            f"{file.name} is not an image", found=f"shape {shape}", expected=f"{ndim} axes, and channels before them"
        )
    channels = shape[0] if len(shape) > ndim else 1
    z, y, x = (1, 1, *shape)[-3:] if ndim == 3 else (1, *shape[-2:])
    return ImageHeader((z, y, x), channels, geometry, array.dtype.name)


def _array(file: Path) -> Any:
    import blosc2

    try:
        array = blosc2.open(urlpath=str(file), mode="r", dparams={"nthreads": 1})
    except Exception as error:  # a damaged file may cause any error in the library
        raise unreadable(file, error) from error
    if type(array) is not blosc2.NDArray:
        raise SegflowError(f"cannot read {file}: it is no plain array", found=type(array).__name__, fix=RESAVE)
    return array


def _geometry(array: Any, file: Path) -> Geometry:
    spacing = _metadata(array, SPACING)
    if spacing is None:
        raise SegflowError(f"{file.name} gives no spacing", fix=f"Write it into the file: {NO_SPACING}")
    affine = _metadata(array, AFFINE)
    try:
        lengths = [float(length) for length in spacing]
        placed = None if affine is None else np.array(affine, np.float64)
        is_usable = 2 <= len(lengths) <= 3 and (placed is None or placed.shape == (4, 4))
    except UNUSABLE:
        is_usable = False
    if not is_usable:
        raise SegflowError(
            f"{file.name} gives a spacing or place that cannot be used",
            found=f"spacing {spacing!r:.80}, affine {affine!r:.80}",
            expected="2 or 3 numbers, and 4 x 4 numbers",
        )
    check_spacing(lengths, file)
    if placed is not None:
        check_affine(placed, file)
    flat = [max(lengths) * FLAT_SPACING_FACTOR] if len(lengths) == 2 else []
    z, y, x = [*flat, *lengths]
    header: dict[str, Any] = {"ndim": len(lengths)}
    return Geometry((z, y, x), header if placed is None else {**header, "affine": placed.tolist()})


def _metadata(array: Any, name: str) -> Any:
    """Variable metadata as plain values, or None. The library itself would build arrays and open what they refer to."""
    import blosc2
    import msgpack

    values = array.schunk.vlmeta
    return msgpack.unpackb(blosc2.blosc2_ext.vlmeta.get_vlmeta(values, name)) if name in values else None


@contextmanager
def _sink(file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry) -> Iterator[VoxelSink]:
    """Write an array box by box. The boxes wait in a temporary file, and are packed in chunks at the end."""
    needed = math.prod(shape) * dtype.itemsize
    with written_whole(file, needed=2 * needed) as temporary:
        check_space(file.parent, 2 * needed, file)
        with scratch_file(needed, f"writing {file}", file.parent) as stream:
            stream.truncate(needed)
            voxels = StoredVoxels(stream, file, 0, (1, *shape), dtype.newbyteorder("<"))
            yield voxels
            _pack(temporary, voxels, geometry)


def _pack(file: Path, voxels: StoredVoxels, geometry: Geometry) -> None:
    import blosc2

    _, depth, height, width = voxels.shape
    ndim = file_ndim(geometry)
    chunk, block = chunk_and_block(voxels.shape, CHUNK_EDGES, voxels.dtype.itemsize)
    array = blosc2.zeros(
        (depth, height, width)[-ndim:],
        dtype=voxels.dtype,
        urlpath=str(file),
        mode="w",
        chunks=chunk[-ndim:],
        blocks=block[-ndim:],
        cparams={"codec": blosc2.Codec.ZSTD, "clevel": LEVEL, "nthreads": 1},
        dparams={"nthreads": 1},
    )
    array.schunk.vlmeta[SPACING] = [float(length) for length in geometry.spacing[-ndim:]]
    if PLACED & set(geometry.header):
        array.schunk.vlmeta[AFFINE] = affine_of(geometry).tolist()
    for z in range(0, depth, chunk[1]):
        for y in range(0, height, chunk[2]):
            box = Box((z, y, 0), (min(z + chunk[1], depth), min(y + chunk[2], height), width))
            values = voxels.read(box)[0]
            array[box.slices[-ndim:]] = values if ndim == 3 else values[0]
