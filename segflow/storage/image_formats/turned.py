"""Files whose voxels are read and written box by box in turned axes: the counterpart of `reorient` for whole arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from segflow.core.geometry import Box, Geometry
from segflow.core.voxels import VoxelSink
from segflow.storage.image_formats.contract import OpenFile
from segflow.storage.image_formats.placement import box_in_file, restore_orientation

Turn = Callable[[np.ndarray, Geometry], tuple[np.ndarray, Geometry]]


class TurnedFile:
    """An open file in turned axes. See `OpenFile`.

    Args:
        opened: The file.
        turn: Turns voxels (C, Z, Y, X) and their geometry, as `reorient` does.
    """

    def __init__(self, opened: OpenFile, turn: Turn) -> None:
        self._opened = opened
        self._turn = turn
        turned, self.geometry = turn(np.broadcast_to(np.zeros((), bool), opened.shape), opened.geometry)
        channels, z, y, x = turned.shape
        self.shape = (channels, z, y, x)
        self.dtype = opened.dtype

    def read(self, box: Box) -> np.ndarray:
        """See `OpenFile.read`."""
        voxels = self._opened.read(box_in_file(box, self.shape[1:], self.geometry))
        return self._turn(voxels, self._opened.geometry)[0]

    def close(self) -> None:
        """See `OpenFile.close`."""
        self._opened.close()


Create = Callable[[Path, tuple[int, int, int], np.dtype, Geometry], AbstractContextManager[VoxelSink] | None]


def turned_sink(
    create: Create, file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry
) -> AbstractContextManager[VoxelSink] | None:
    """Write boxes in turned axes into a file in its own axes.

    Args:
        create: `ImageFormat.create_file` for the file's own axes.
        file, shape, dtype, geometry: See `ImageFormat.create_file`, in turned axes.
    """
    in_file, own = restore_orientation(np.broadcast_to(np.zeros((), bool), shape), geometry)
    z, y, x = in_file.shape
    created = create(file, (z, y, x), dtype, own)
    return None if created is None else _turning(created, shape, geometry)


@contextmanager
def _turning(
    created: AbstractContextManager[VoxelSink], shape: tuple[int, int, int], geometry: Geometry
) -> Iterator[VoxelSink]:
    with created as sink:
        yield _TurnedSink(sink, shape, geometry)


class _TurnedSink:
    def __init__(self, sink: VoxelSink, shape: tuple[int, int, int], geometry: Geometry) -> None:
        self._sink = sink
        self._shape = shape
        self._geometry = geometry

    def write(self, box: Box, values: np.ndarray) -> None:
        """See `VoxelSink.write`."""
        own, _ = restore_orientation(values, self._geometry)
        self._sink.write(box_in_file(box, self._shape, self._geometry), own)
