"""The planes of a volume that are in use, as prediction moves along its first axis."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segflow.core.geometry import Box
from segflow.core.voxels import ArraySource, VoxelSource
from segflow.execution.machine import memory_bytes
from segflow.inference.tiles import Window
from segflow.network.device_memory import free_bytes, is_out_of_memory
from segflow.storage.scratch_array import ScratchArray

logger = logging.getLogger(__name__)

SHARE_OF_SUMS = 0.1
"""Share of the memory for the sums of one image. Those of two more images may wait to be written."""

SHARE_OF_IMAGE = 0.05
"""Share of the memory for one image in plan space. As many as readers may wait to be predicted."""

DEVICE_SHARE = 0.5
"""Share of the free memory of a GPU for the sums of one image."""

READ_BYTES = 2**26
"""Most bytes of an image that are read at once."""

_NUMPY = {torch.float32: np.float32, torch.float16: np.float16}


@dataclass(frozen=True, slots=True)
class Room:
    """What a prediction may keep of one image in memory.

    Attributes:
        sums: Bytes for the sums of logits. If an image's sums do not fit, only planes that a tile may still change are
            kept; what of those does not fit lies in a file.
        image: Bytes for the image in plan space, likewise.
        scratch: Folder of such files; None takes the system's for temporary files.
    """

    sums: int
    image: int
    scratch: Path | None = None

    @classmethod
    def of_machine(cls, scratch: Path | None = None) -> Room:
        """The usual shares of the memory that this process may use."""
        total = memory_bytes()
        return cls(int(total * SHARE_OF_SUMS), int(total * SHARE_OF_IMAGE), scratch)


class Planes:
    """Room for some consecutive planes of a volume (K, Z, Y, X). Plane z lies at place ``z % depth``.

    Args:
        shape: K, the number of planes, Y and X.
        dtype: float32 or float16.
        device: Where they lie. Main memory takes what the device has no room for.
        memory: Bytes of main memory from which on they lie in a file.
        scratch: Folder of that file; None takes the system's for temporary files.

    Attributes:
        values: (K, depth, Y, X), zeros at first.
        depth: Number of planes.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        memory: int,
        scratch: Path | None = None,
    ) -> None:
        self.depth = shape[1]
        self._file: ScratchArray | None = None
        if device.type != "cpu":
            try:
                self.values = torch.zeros(tuple(shape), dtype=dtype, device=device)
                return
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("the planes of an image do not fit on %s; they lie in main memory", device)
        if math.prod(shape) * dtype.itemsize > memory:
            self._file = ScratchArray(shape, _NUMPY[dtype], scratch)
            self.values = torch.from_numpy(self._file.array)
        else:
            self.values = torch.zeros(tuple(shape), dtype=dtype)

    def spans(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Where the planes from ``start`` to ``stop`` lie, in order, each time with their place relative to ``start``.

        At most ``depth`` planes lie in at most two spans.
        """
        done = start
        while done < stop:
            place = done % self.depth
            count = min(stop - done, self.depth - place)
            yield slice(place, place + count), slice(done - start, done - start + count)
            done += count

    def move_to_main_memory(self) -> None:
        """Move the planes to main memory, so that others get the device's."""
        self.values = self.values.cpu()

    @property
    def release(self) -> Callable[[], None]:
        """Frees the memory of planes that lie in a file."""
        return _nothing if self._file is None else self._file.release


def _nothing() -> None:
    pass


def planes_at_once(window: Window, plane_bytes: int, device: torch.device, memory: int) -> int:
    """How many planes of sums are kept: all if they fit, else at least those of a tile.

    Args:
        window: The tiles.
        plane_bytes: Bytes of a plane, of all outputs together.
        device: Where the sums lie.
        memory: Bytes of main memory that they may take.
    """
    if device.type == "cuda":
        memory = int(free_bytes(device) * DEVICE_SHARE)
    return min(max(memory // plane_bytes, window.patch[0]), window.shape[0])


class ImagePlanes:
    """The padded image, or the planes of it that the present tiles need.

    Args:
        source: The image (C, Z, Y, X) in plan space.
        window: Its tiles.
        device: Where the networks are.
        room: How much of it may be in memory.
    """

    def __init__(self, source: VoxelSource, window: Window, device: torch.device, room: Room) -> None:
        self._source = source
        self._window = window
        self._read = 0
        self._rings: list[Planes] = []
        channels, *plane = source.shape[0], *window.shape[1:]
        if isinstance(source, ArraySource) or channels * math.prod(window.shape) * 4 <= room.image:
            image = torch.from_numpy(_everything(source))
            self._here = torch.nn.functional.pad(image, window.padding) if any(window.padding) else image
            self._there = _where_it_fits(self._here, device)
            return
        shape = (channels, window.patch[0], *plane)
        self._rings.append(Planes(shape, torch.float32, torch.device("cpu"), room.image, room.scratch))
        if device.type != "cpu":
            self._rings.append(Planes(shape, torch.float32, device, room.image, room.scratch))

    def tile(self, start: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The tile (C, \\*patch) at ``start`` in main memory, and where the networks are if it fits there.

        Tiles must be asked for in the order of their first axis.
        """
        if not self._rings:
            return self._window.tile(self._here, start), self._window.tile(self._there, start)
        self._need(start[0] + self._window.patch[0])
        here = self._cut(self._rings[0], start)
        return here, here if len(self._rings) == 1 else self._cut(self._rings[1], start)

    def _cut(self, ring: Planes, start: Sequence[int]) -> Tensor:
        """A copy of a tile, since later planes take the place of earlier ones."""
        y, x = (slice(s, s + p) for s, p in zip(start[1:], self._window.patch[1:], strict=True))
        spans = ring.spans(start[0], start[0] + self._window.patch[0])
        tile = torch.cat([ring.values[:, place, y, x] for place, _ in spans], 1)
        ring.release()
        return tile

    def _need(self, stop: int) -> None:
        """Read the planes up to ``stop``."""
        channels, depth, *plane = self._source.shape
        inside = self._window.inside
        at_once = max(READ_BYTES // (channels * math.prod(plane) * 4), 1)
        while self._read < stop:
            end = min(stop, self._read + at_once)
            first, last = (min(max(z - inside[0].start, 0), depth) for z in (self._read, end))
            values = torch.zeros((channels, end - self._read, *self._window.shape[1:]))
            if first < last:
                read = self._source.read(Box((first, 0, 0), (last, *plane)))
                begin = first + inside[0].start - self._read
                values[:, begin : begin + last - first, inside[1], inside[2]] = torch.from_numpy(read)
            for ring in self._rings:
                for place, part in ring.spans(self._read, end):
                    ring.values[:, place].copy_(values[:, part])
                ring.release()
            self._read = end


def _everything(source: VoxelSource) -> np.ndarray:
    if isinstance(source, ArraySource):
        return np.ascontiguousarray(source.array, dtype=np.float32)
    return source.read(Box.whole(source.shape[1:]))


def _where_it_fits(image: Tensor, device: torch.device) -> Tensor:
    """The image on the device, or unchanged if the device is too small for it."""
    try:
        return image.to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return image
