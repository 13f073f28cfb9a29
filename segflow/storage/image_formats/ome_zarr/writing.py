"""Writing of an OME-Zarr image with one array, in chunks that every program reads: packed with zlib or gzip."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip, isal_zlib

from segflow.core.geometry import Box, Geometry
from segflow.core.voxels import VoxelSink
from segflow.storage.folder_files import image_folder_written_whole
from segflow.storage.image_formats.ome_zarr.multiscales import SPACE, Axis, attributes_of, axes_of
from segflow.storage.image_formats.stored_voxels import StoredVoxels
from segflow.storage.json_files import write_json
from segflow.storage.scratch_files import check_space, scratch_file

ENDINGS = (".ome.zarr", ".zarr")
ARRAY = "0"
LEVEL = 1


@contextmanager
def zarr_sink(file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry) -> Iterator[VoxelSink]:
    """Write an image box by box. The boxes wait in a temporary file, and are packed in chunks at the end.

    Args:
        file: The folder, which exists when the block ends without an error, and not before.
        shape: Voxels along z, y, x.
        dtype: Type of the voxels; label maps are integers.
        geometry: Geometry of the image.

    Raises:
        SegflowError: The folder cannot be written.
    """
    needed = math.prod(shape) * dtype.itemsize
    with image_folder_written_whole(file) as folder:
        check_space(folder, 2 * needed, file)
        with scratch_file(needed, f"writing {file}", file.parent) as stream:
            stream.truncate(needed)
            voxels = StoredVoxels(stream, file, 0, (1, *shape), dtype.newbyteorder("<"))
            yield voxels
            axes, version = axes_of(geometry)
            _write_metadata(folder, file, axes, version, dtype, shape)
            _write_chunks(folder / ARRAY, voxels, axes, version)


def _write_metadata(
    folder: Path, file: Path, axes: tuple[Axis, ...], version: str, dtype: np.dtype, shape: tuple[int, ...]
) -> None:
    name = next((file.name[: -len(end)] for end in ENDINGS if file.name.lower().endswith(end)), file.name)
    attributes = attributes_of(axes, version, name, is_label=dtype.kind in "iu")
    size = [dict(zip(SPACE, shape, strict=True))[axis.name] for axis in axes]
    chunk = [dict(zip(SPACE, _chunk(shape, dtype), strict=True))[axis.name] for axis in axes]
    if version == "0.5":
        write_json(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
        write_json(folder / ARRAY / "zarr.json", _array_of_v3(size, chunk, dtype, [axis.name for axis in axes]))
        return
    write_json(folder / ".zgroup", {"zarr_format": 2})
    write_json(folder / ".zattrs", attributes)
    metadata = {
        "zarr_format": 2,
        "shape": size,
        "chunks": chunk,
        "dtype": dtype.newbyteorder("<").str,
        "compressor": {"id": "zlib", "level": LEVEL},
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }
    write_json(folder / ARRAY / ".zarray", metadata)


def _array_of_v3(shape: list[int], chunk: list[int], dtype: np.dtype, names: list[str]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "gzip", "configuration": {"level": LEVEL}},
        ],
        "dimension_names": names,
        "attributes": {},
    }


def _write_chunks(folder: Path, voxels: StoredVoxels, axes: tuple[Axis, ...], version: str) -> None:
    """Write every chunk, empty ones too, so that a missing one is a lost one."""
    _, *shape = voxels.shape
    chunk = _chunk((shape[0], shape[1], shape[2]), voxels.dtype)
    order = [SPACE.index(axis.name) for axis in axes]
    counts = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
    for index in itertools.product(*(range(n) for n in counts)):
        start = tuple(k * c for k, c in zip(index, chunk, strict=True))
        stop = tuple(min(a + c, n) for a, c, n in zip(start, chunk, shape, strict=True))
        block = np.zeros(chunk, voxels.dtype)
        box = Box(start, stop)
        block[tuple(slice(0, n) for n in box.shape)] = voxels.read(box)[0]
        flat = block[0] if len(axes) == 2 else block
        own = [axis - (3 - len(axes)) for axis in order]
        content = np.ascontiguousarray(flat.transpose(own)).tobytes()
        file = folder.joinpath(*(["c"] if version == "0.5" else []), *(str(index[axis]) for axis in order))
        file.parent.mkdir(parents=True, exist_ok=True)
        packed = igzip.compress(content, LEVEL, mtime=0) if version == "0.5" else isal_zlib.compress(content, LEVEL)
        file.write_bytes(packed)


def _chunk(shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """Voxels of a chunk along z, y, x: about a cube."""
    if shape[0] == 1:
        return (1, *(min(n, 1024) for n in shape[1:]))
    edge = 128 if dtype.itemsize <= 2 else 64
    return tuple(min(n, edge) for n in shape)
