"""Images and label maps in plan space that are resampled a few slices at a time, as they are read.

Slices are made as `resampling` makes those of whole images, by the same products of matrices, so they are equal bit by
bit. What is made stays for the next readings, which mostly go on where the last one ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from segflow.core.geometry import Box
from segflow.core.voxels import LabelSource, VoxelSource
from segflow.preprocessing.interpolation import BAND_ROWS, Band, axis_bands, nearest_indices
from segflow.preprocessing.label_resampling import label_slices_needed, resize_label_slices
from segflow.preprocessing.resampling import Interpolation, resize_in_plane
from segflow.preprocessing.rescaling import Range, range_of

FEWEST_COLUMNS, _FEWEST_LINES = 1 << 17, 1 << 13
"""Smaller products of matrices may be computed by another routine, which rounds differently: along the first axis, and
within slices. A product with a single row is another routine's too."""


def fewest_slices(rows: int) -> int:
    """Slices with so many rows that must be made together."""
    return max(2, -(-_FEWEST_LINES // rows))


class ResampledImage:
    """An image on another grid. A `VoxelSource`.

    Args:
        image: The normalised image, (C, Z, Y, X).
        new_shape: Voxels along z, y, x after resampling.
        interpolation: How to resample; its separate axis is the first one or None.
        limits: Lowest and highest value of each channel of the image.
        memory: Bytes that working memory and the slices that are kept should not exceed, as far as a few slices of the
            image fit.
    """

    def __init__(
        self,
        image: VoxelSource,
        new_shape: Sequence[int],
        interpolation: Interpolation,
        limits: Sequence[Range],
        memory: int,
    ) -> None:
        self._image = image
        self._new_shape = tuple(int(n) for n in new_shape)
        self._interpolation = interpolation
        clips = interpolation.clip and interpolation.order > 1
        self._limits: list[Range | None] = list(limits) if clips else [None] * image.shape[0]
        self._memory = memory
        new_plane = self._new_shape[1] * self._new_shape[2]
        self._fewest = fewest_slices(self._new_shape[1])
        at_once = max(self._fewest, min(BAND_ROWS, memory // (8 * image.shape[0] * new_plane)))
        self._slices = _Slices(self._parts(at_once), self._make)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `VoxelSource`."""
        z, y, x = self._new_shape
        return self._image.shape[0], z, y, x

    def read(self, box: Box) -> np.ndarray:
        """See `VoxelSource`."""
        return self._slices.read(box)

    def _parts(self, at_once: int) -> Iterator[range]:
        """The new slices in parts that are made together. A part lies within a band of the interpolation matrix."""
        for start in range(0, self._new_shape[0], BAND_ROWS):
            band = range(start, min(start + BAND_ROWS, self._new_shape[0]))
            for piece in _pieces(len(band), at_once):
                yield band[piece]

    def _make(self, slices: range) -> np.ndarray:
        if self._interpolation.separate is None:
            return self._from_volume(slices)
        size, new_size = self._image.shape[1], self._new_shape[0]
        if self._interpolation.order_through == 0 or size == new_size:
            chosen = nearest_indices(size, new_size)[slices.start : slices.stop]
            found = {int(index): self._in_plane(int(index)) for index in np.unique(chosen)}
            return np.stack([found[int(index)] for index in chosen], 1)
        band, rows = self._band(slices, self._interpolation.order_through)
        resized = np.stack([self._in_plane(index) for index in range(size)[band.columns]], 1)
        return np.stack([(band.matrix[rows] @ channel.reshape(len(channel), -1)) for channel in resized]).reshape(
            len(resized), len(slices), *self._new_shape[1:]
        )

    def _band(self, slices: range, order: int) -> tuple[Band, slice]:
        """The band that makes some slices, and their rows in it."""
        band = axis_bands(self._image.shape[1], self._new_shape[0], order)[slices.start // BAND_ROWS]
        return band, slice(slices.start - band.rows.start, slices.stop - band.rows.start)

    def _from_volume(self, slices: range) -> np.ndarray:
        """Slices of a volume that is interpolated along all axes."""
        _, depth, rows, columns = self._image.shape
        if depth == self._new_shape[0]:
            between = self._image.read(Box((slices.start, 0, 0), (slices.stop, rows, columns)))
        else:
            between = self._through(*self._band(slices, self._interpolation.order))
        result = np.empty((len(between), len(slices), *self._new_shape[1:]), np.float32)
        for source, target, limits in zip(between, result, self._limits, strict=True):
            for piece in _pieces(len(slices), self._fewest):
                resize_in_plane(source[piece], target[piece], self._interpolation.order, limits)
        return result

    def _through(self, band: Band, rows: slice) -> np.ndarray:
        """Slices on the old grid within the slice, interpolated along the first axis: (C, n, Y, X)."""
        channels, _, height, width = self._image.shape
        matrix = band.matrix[rows]
        source = range(self._image.shape[1])[band.columns]
        result = np.empty((channels, len(matrix), height, width), np.float32)
        row_bytes = 4 * channels * len(source) * width
        fewest = max(-(-FEWEST_COLUMNS // width), self._memory // 4 // row_bytes)
        for piece in _pieces(height, fewest if len(band.matrix) > 1 else height):
            start, stop = piece.start, piece.stop
            values = self._image.read(Box((source.start, start, 0), (source.stop, stop, width)))
            for own, target in zip(values, result, strict=True):
                flat = own.reshape(len(source), -1)
                target[:, start:stop] = (matrix @ flat).reshape(len(matrix), stop - start, width)
        return result

    def _in_plane(self, index: int) -> np.ndarray:
        """One slice of the image on the new grid, (C, Y, X), clipped to its own range."""
        _, _, rows, columns = self._image.shape
        source = self._image.read(Box((index, 0, 0), (index + 1, rows, columns)))
        result = np.empty((len(source), 1, *self._new_shape[1:]), np.float32)
        for own, target, limits in zip(source, result, self._limits, strict=True):
            resize_in_plane(own, target, self._interpolation.order, None if limits is None else range_of(own))
        return result[:, 0]


class ResampledLabel:
    """A label map on another grid. A `LabelSource`.

    Args:
        label: int (Z, Y, X).
        new_shape: Voxels along z, y, x after resampling.
        interpolation: How to resample; its separate axis is the first one or None.
        memory: Bytes that the slices that are kept should not exceed, as far as two of them fit.
    """

    def __init__(self, label: LabelSource, new_shape: Sequence[int], interpolation: Interpolation, memory: int) -> None:
        self._label = label
        self._new_shape = tuple(int(n) for n in new_shape)
        self._interpolation = interpolation
        at_once = max(1, min(BAND_ROWS, memory // (16 * self._new_shape[1] * self._new_shape[2])))
        starts = range(0, self._new_shape[0], at_once)
        parts = [range(start, min(start + at_once, self._new_shape[0])) for start in starts]
        self._slices = _Slices(parts, self._make)

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `LabelSource`."""
        z, y, x = self._new_shape
        return z, y, x

    def read(self, box: Box) -> np.ndarray:
        """See `LabelSource`."""
        label: np.ndarray = self._slices.read(box)[0]
        return label

    def _make(self, slices: range) -> np.ndarray:
        shape, how = self._label.shape, self._interpolation
        needed = label_slices_needed(shape[0], self._new_shape[0], how.order, how.separate, slices.start, slices.stop)
        source = self._label.read(Box((needed.start, 0, 0), (needed.stop, *shape[1:])))
        part = slice(slices.start, slices.stop)
        result: np.ndarray = resize_label_slices(
            source, needed.start, shape, self._new_shape, how.order, how.separate, how.ties, part
        )
        return result[None]


def _pieces(length: int, fewest: int) -> Iterator[slice]:
    """Parts of a length, as small as possible, but not below ``fewest`` if it is longer."""
    count = max(1, length // fewest)
    for number in range(count):
        yield slice(length * number // count, length * (number + 1) // count)


class _Slices:
    """Slices that are made in parts, of which the last two are kept.

    Args:
        parts: Numbers of the slices of each part, in order.
        make: Makes a part: (C, n, Y, X).
    """

    def __init__(self, parts: Iterable[range], make: Callable[[range], np.ndarray]) -> None:
        self._parts = list(parts)
        self._stops = [part.stop for part in self._parts]
        self._make = make
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def read(self, box: Box) -> np.ndarray:
        """The voxels of a box that is not empty: (C, \\*box.shape)."""
        start, stop = box.start[0], box.stop[0]
        found = []
        for number in range(bisect_right(self._stops, start), len(self._parts)):
            part = self._parts[number]
            if part.start >= stop:
                break
            here = slice(max(start, part.start) - part.start, min(stop, part.stop) - part.start)
            found.append(self._part(number)[(slice(None), here, *box.slices[1:])])
        return np.concatenate(found, axis=1)

    def _part(self, number: int) -> np.ndarray:
        if number not in self._kept:
            while len(self._kept) > 1:
                self._kept.popitem(last=False)
            self._kept[number] = self._make(self._parts[number])
        self._kept.move_to_end(number)
        return self._kept[number]
