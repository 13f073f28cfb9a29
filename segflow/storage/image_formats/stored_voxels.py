"""Voxels that lie one after another in a file, read and written box by box."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np

from segflow.core.geometry import Box
from segflow.core.system_errors import system_error
from segflow.storage.image_formats.inflate import truncated


class StoredVoxels:
    """The voxels (C, Z, Y, X) of an open file; x is the fastest axis.

    A box is read row range by row range, never through a memory map: mapped pages count as the process's memory, and
    a full disk would end the process.

    Args:
        stream: The open file. It is closed by whoever opened it.
        file: Named in errors.
        offset: Byte of the first voxel.
        shape: (C, Z, Y, X).
        dtype: Type of the voxels, byte order included.
    """

    def __init__(
        self, stream: BinaryIO, file: Path, offset: int, shape: tuple[int, int, int, int], dtype: np.dtype
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._stream = stream
        self._file = file
        self._offset = offset
        self._lock = threading.RLock()

    @property
    def end(self) -> int:
        """Byte behind the last voxel."""
        return self._offset + math.prod(self.shape) * self.dtype.itemsize

    def read(self, box: Box) -> np.ndarray:
        """Voxels (C, \\*box.shape) within a box that lies inside the image.

        Raises:
            SegflowError: The file ends before the voxels do, or the disk reports an error.
        """
        channels, width = self.shape[0], self.shape[3]
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        result = np.empty((channels, *box.shape), self.dtype)
        rows = np.empty((y1 - y0, width), self.dtype) if x1 - x0 < width else None
        for channel in range(channels):
            for z in range(z0, z1):
                target = result[channel, z - z0]
                self._read_rows(channel, z, y0, target if rows is None else rows)
                if rows is not None:
                    target[...] = rows[:, x0:x1]
        return result

    def write(self, box: Box, values: np.ndarray) -> None:
        """Write the voxels (\\*box.shape) of a box of a file with one channel.

        Raises:
            OSError: The disk is full, or reports another error.
        """
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        values = np.ascontiguousarray(values, self.dtype)
        for z in range(z0, z1):
            self._write_rows(z, Box((y0, x0), (y1, x1)), values[z - z0])

    def _write_rows(self, z: int, part: Box, rows: np.ndarray) -> None:
        """Write a part (Y', X') of a plane."""
        (y0, x0), (y1, x1) = part.start, part.stop
        width = self.shape[3]
        with self._lock:
            if x1 - x0 < width:  # one write of whole rows is quicker than one of each row's part
                whole = np.empty((y1 - y0, width), self.dtype)
                self._read_rows(0, z, y0, whole)
                whole[:, x0:x1] = rows
                rows = whole
            self._go_to(0, z, y0)
            self._stream.write(rows.data.cast("B"))

    def _read_rows(self, channel: int, z: int, y: int, target: np.ndarray) -> None:
        """Read whole rows (Y', X) of a plane, from row y on."""
        view = target.reshape(-1).view(np.uint8).data
        done = 0
        try:
            with self._lock:
                self._go_to(channel, z, y)
                while done < len(view) and (count := self._stream.readinto(view[done:])):  # type: ignore[attr-defined]
                    done += count
        except OSError as error:
            raise system_error(error, f"cannot read {self._file}") from error
        if done < len(view):
            raise truncated(self._file, "its end before its last voxel", f"{self.end} bytes")

    def _go_to(self, channel: int, z: int, y: int) -> None:
        _, planes, height, width = self.shape
        voxel = ((channel * planes + z) * height + y) * width
        self._stream.seek(self._offset + voxel * self.dtype.itemsize)
