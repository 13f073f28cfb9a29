"""Images that are read and written box by box, so that none needs to fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from segflow.core.geometry import Box


class VoxelSource(Protocol):
    """An image whose voxels are read box by box. Reading the same box again gives the same values."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Channels, and voxels along z, y, x."""

    def read(self, box: Box) -> np.ndarray:
        """Voxels within a box that lies inside the image: float32 (C, *box.shape), the caller's to change.

        Raises:
            SegflowError: The file is damaged or a part of it is missing. The error names the file.
        """


class LabelSource(Protocol):
    """A label map whose voxels are read box by box. Reading the same box again gives the same values."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""

    def read(self, box: Box) -> np.ndarray:
        """Labels (Z, Y, X) within a box that lies inside the map: int (\\*box.shape), the caller's to change.

        Raises:
            SegflowError: The file is damaged or a part of it is missing. The error names the file.
        """


class VoxelSink(Protocol):
    """A volume (Z, Y, X) that is written box by box. Boxes may come in any order and do not overlap."""

    def write(self, box: Box, values: np.ndarray) -> None:
        """Write the voxels of a box: (\\*box.shape) of the sink's type.

        Raises:
            NoSpaceError: The disk is full.
        """


class ArraySource:
    """An array as a `VoxelSource`.

    Args:
        array: (C, Z, Y, X) of any type of number.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `VoxelSource`."""
        channels, z, y, x = self.array.shape
        return channels, z, y, x

    def read(self, box: Box) -> np.ndarray:
        """See `VoxelSource`."""
        return self.array[(slice(None), *box.slices)].astype(np.float32)


class ArrayLabel:
    """An array as a `LabelSource`.

    Args:
        array: int (Z, Y, X).
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `LabelSource`."""
        z, y, x = self.array.shape
        return z, y, x

    def read(self, box: Box) -> np.ndarray:
        """See `LabelSource`."""
        return self.array[box.slices].copy()


class ArraySink:
    """An array as a `VoxelSink`.

    Args:
        array: (Z, Y, X).
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def write(self, box: Box, values: np.ndarray) -> None:
        """Write the voxels of a box (\\*box.shape), see `VoxelSink`."""
        self.array[box.slices] = values


def boxes_in_order(shape: Sequence[int], most_voxels: int) -> Iterator[Box]:
    """Boxes that cover an array (Z, Y, X) without overlap. Their voxels follow each other as in the array's memory.

    Args:
        shape: Of the array.
        most_voxels: A box has no more voxels, but at least one row.
    """
    slices, rows, columns = (int(n) for n in shape)
    rows_at_once = max(1, most_voxels // max(1, columns))
    if rows_at_once >= rows:
        at_once = max(1, rows_at_once // max(1, rows))
        for z in range(0, slices, at_once):
            yield Box((z, 0, 0), (min(z + at_once, slices), rows, columns))
        return
    for z in range(slices):
        for y in range(0, rows, rows_at_once):
            yield Box((z, y, 0), (z + 1, min(y + rows_at_once, rows), columns))
