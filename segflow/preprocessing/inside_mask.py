"""The non-zero mask with its holes filled (recipe 2.2), for images that do not fit into memory: one bit per voxel.

A hole is background that no path leads out of. Background that is open to the outside spreads slice by slice, down and
up the image, until nothing changes. Three such passes are enough for nearly every image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from segflow.core.cropping import any_channel
from segflow.core.geometry import Box
from segflow.core.voxels import VoxelSource, boxes_in_order
from segflow.storage.scratch_array import ScratchArray

MOST_BITS_BYTES = 1 << 26
"""Bytes of bits above which they lie in a file."""


class InsideMask:
    """Whether a voxel lies in the filled non-zero mask of an image.

    Args:
        image: (C, Z, Y, X), cut to the box of its non-zero voxels.
        most_values: Values of the image that are read at once.
        scratch: Folder for a file of bits that do not fit into memory; None takes the system's for temporary files.

    Raises:
        SegflowError: The image cannot be read, or the folder has no room.
    """

    def __init__(self, image: VoxelSource, *, most_values: int, scratch: Path | None = None) -> None:
        channels, *shape = image.shape
        self._width = shape[2]
        self._outside = _Bits(shape, scratch)
        background = _Bits(shape, scratch)
        for box in boxes_in_order(shape, max(1, most_values // channels)):
            background.write(box, ~any_channel(image.read(box)))
        if min(shape) <= 2:  # every voxel is at the border
            self._outside = background
            return
        passes = 0
        while _spread(background, self._outside, reverse=passes % 2 == 1, first=passes == 0):
            passes += 1

    def read(self, box: Box) -> np.ndarray:
        """bool (\\*box.shape)."""
        return ~self._outside.read(box)


class _Bits:
    """A bool (Z, Y, X), all false at first, in packed bits."""

    def __init__(self, shape: Iterable[int], scratch: Path | None) -> None:
        slices, rows, self._columns = (int(n) for n in shape)
        packed = (slices, rows, -(-self._columns // 8))
        self._file = ScratchArray(packed, np.uint8, scratch) if math.prod(packed) > MOST_BITS_BYTES else None
        self.bytes: np.ndarray = np.zeros(packed, np.uint8) if self._file is None else self._file.array

    def write(self, box: Box, values: np.ndarray) -> None:
        """Write whole rows."""
        self.bytes[box.slices[:2]] = np.packbits(values, axis=2)
        self.release()

    def read(self, box: Box) -> np.ndarray:
        start, stop = box.start[2], box.stop[2]
        packed = self.bytes[(*box.slices[:2], slice(start // 8, -(-stop // 8)))]
        bits = np.unpackbits(packed, axis=2)[:, :, start % 8 :][:, :, : stop - start]
        self.release()
        return bits.view(bool)

    def slice(self, z: int) -> np.ndarray:
        """One slice, bool (Y, X)."""
        return np.unpackbits(self.bytes[z], axis=1, count=self._columns).view(bool)

    def release(self) -> None:
        if self._file is not None:
            self._file.release()


def _spread(background: _Bits, outside: _Bits, *, reverse: bool, first: bool) -> bool:
    """Spread what is outside from slice to slice. Returns whether anything changed.

    Args:
        background: Where it may spread to.
        outside: What is known to be outside; it grows.
        reverse: Whether to go from the last slice to the first.
        first: Whether nothing has spread from the image's border yet.
    """
    slices = len(background.bytes)
    changed = False
    for number in range(slices)[::-1] if reverse else range(slices):
        before = number + 1 if reverse else number - 1
        reached = background.bytes[number] & ~outside.bytes[number]
        if 0 <= before < slices:
            reached &= outside.bytes[before]
        else:
            reached[...] = 0
        if not first and not reached.any():
            continue
        here = background.slice(number)
        seeds = np.unpackbits(reached, axis=1, count=here.shape[1]).view(bool)
        if first:
            at_end = number in (0, slices - 1)
            seeds |= here if at_end else _border(here)
        known = outside.bytes[number].copy()
        outside.bytes[number] = known | np.packbits(_connected(here, seeds), axis=1)
        changed |= bool((outside.bytes[number] != known).any())
        background.release()
        outside.release()
    return changed


def _border(mask: np.ndarray) -> np.ndarray:
    """The part of a mask (Y, X) that lies at its edges."""
    result = mask.copy()
    result[1:-1, 1:-1] = False
    return result


def _connected(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The connected parts of a mask (Y, X) that hold a seed."""
    if mask.all():
        return mask if seeds.any() else seeds
    from scipy import ndimage  # slow to load

    parts, count = ndimage.label(mask)
    chosen = np.zeros(count + 1, bool)
    chosen[parts[seeds]] = True
    chosen[0] = False
    result: np.ndarray = chosen[parts]
    return result
