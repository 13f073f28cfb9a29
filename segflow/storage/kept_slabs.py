"""Slices of a chunked file that were unpacked together, kept for the next readings of single slices."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from segflow.core.geometry import Box
from segflow.storage.scratch_array import ScratchArray

IN_MEMORY = 1 << 26
"""Bytes of a slab up to which it is kept in memory; a larger one lies in a file."""

_AT_ONCE = 1 << 24
"""Values that are read at once, as far as chunks allow."""

_SLABS = 2

MOST_BYTES = _SLABS * IN_MEMORY
"""Memory for the slabs of one file."""


class KeptSlabs:
    """Reads an image whose chunks are deep slice by slice, and unpacks each chunk once.

    Args:
        read: Reads a box (C, z, y, x).
        shape: Channels, and voxels along z, y, x.
        dtype: Type that holds its values.
        chunk: Voxels of a chunk along z, y, x.
        scratch: Folder for slabs that do not fit into memory; None takes the system's for temporary files.
    """

    def __init__(
        self,
        read: Callable[[Box], np.ndarray],
        shape: Sequence[int],
        dtype: np.dtype,
        chunk: Sequence[int],
        scratch: Path | None = None,
    ) -> None:
        self._read = read
        self._shape = tuple(shape)
        self._dtype = dtype
        self._chunk = tuple(chunk)
        self._scratch = scratch
        self._kept: OrderedDict[int, np.ndarray | ScratchArray] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, box: Box) -> np.ndarray:
        """The values of a box that lies inside the image, (C, z, y, x)."""
        depth = self._chunk[0]
        is_flat = box.shape[0] < depth and 2 * math.prod(box.shape[1:]) >= math.prod(self._shape[2:])
        if not is_flat:
            return self._read(box)
        result = np.empty((self._shape[0], *box.shape), self._dtype)
        with self._lock:
            for number in range(box.start[0] // depth, -(-box.stop[0] // depth)):
                first = number * depth
                start, stop = max(box.start[0], first), min(box.stop[0], first + depth)
                slab = self._slab(number)
                values = slab.array if isinstance(slab, ScratchArray) else slab
                result[:, start - box.start[0] : stop - box.start[0]] = values[
                    (slice(None), slice(start - first, stop - first), *box.slices[1:])
                ]
                if isinstance(slab, ScratchArray):
                    slab.release()
        return result

    def _slab(self, number: int) -> np.ndarray | ScratchArray:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        channels, depth, *plane = self._shape
        room = self._room((channels, min(self._chunk[0], depth), *plane))
        values = room.array if isinstance(room, ScratchArray) else room
        first = number * self._chunk[0]
        for box in self._boxes(first, min(first + self._chunk[0], depth)):
            values[:, : box.shape[0], box.start[1] : box.stop[1]] = self._read(box)
            if isinstance(room, ScratchArray):
                room.release()
        self._kept[number] = room
        return room

    def _room(self, shape: Sequence[int]) -> np.ndarray | ScratchArray:
        """Room for a slab: that of the slab that was read longest ago, once there are enough."""
        if len(self._kept) >= _SLABS:
            return self._kept.popitem(last=False)[1]
        if math.prod(shape) * self._dtype.itemsize <= IN_MEMORY:
            return np.empty(tuple(shape), self._dtype)
        return ScratchArray(shape, self._dtype, self._scratch)

    def _boxes(self, first: int, last: int) -> Iterator[Box]:
        """Boxes of whole chunks that cover some slices."""
        channels, _, height, width = self._shape
        at_once = max(1, _AT_ONCE // (channels * (last - first) * width * self._chunk[1])) * self._chunk[1]
        for y in range(0, height, at_once):
            yield Box((first, y, 0), (last, min(y + at_once, height), width))
