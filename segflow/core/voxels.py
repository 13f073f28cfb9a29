"""Images that are read and written box by box, so that none needs to fit into memory."""

from __future__ import annotations

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


class ArraySink:
    """An array as a `VoxelSink`.

    Args:
        array: (Z, Y, X).
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def write(self, box: Box, values: np.ndarray) -> None:
        """See `VoxelSink`."""
        self.array[box.slices] = values
