"""Images and label maps as files that are read and written box by box, so that none needs to fit into memory.

Values equal those of `ImageIO.read_image` and `ImageIO.read_label`, and files those of `ImageIO.write_label` and
`ImageIO.write_map`, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.voxels import ArraySink, VoxelSink
from segflow.storage.image_formats.contract import (
    ImageFormat,
    ImageIO,
    OpenFile,
    as_label,
    check_one_channel,
    check_same_grid,
    label_type,
)
from segflow.storage.kept_slabs import KeptSlabs
from segflow.storage.label_mapping import MappedIO, stored_reader

Mapping = Callable[[np.ndarray], np.ndarray]


def _as_stored(labels: np.ndarray) -> np.ndarray:
    return labels


class _Opened:
    """Open files, which a ``with`` block or `close` closes.

    Attributes:
        geometry: Geometry of the first file.
        dtype: Type of the voxels as the first file stores them; scaled values are float32.
    """

    def __init__(self, files: Sequence[OpenFile]) -> None:
        self._files = files
        self._read = [_reading(file) for file in files]
        self.geometry: Geometry = files[0].geometry
        self.dtype: np.dtype = files[0].dtype

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class OpenedImage(_Opened):
    """An image as a `VoxelSource`, with its geometry."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """See `VoxelSource`."""
        _, z, y, x = self._files[0].shape
        return sum(file.shape[0] for file in self._files), z, y, x

    def read(self, box: Box) -> np.ndarray:
        """The voxels (C, Z, Y, X) of a box, float32; see `VoxelSource`."""
        result = np.empty((self.shape[0], *box.shape), np.float32)
        done = 0
        for file, read in zip(self._files, self._read, strict=True):
            result[done : done + file.shape[0]] = read(box)
            done += file.shape[0]
        return result


class OpenedLabel(_Opened):
    """A label map that is read box by box, with its geometry.

    Attributes:
        dtype: Type of the stored labels: int16, or int32 if the stored type can hold more. `ImageIO.read_label` gives
            int16 even then, as long as no value needs more.
    """

    def __init__(self, opened: OpenFile, file: Path, to_classes: Mapping = _as_stored) -> None:
        super().__init__([opened])
        self._file = file
        self._to_classes = to_classes
        small = np.can_cast(opened.dtype, np.int16) or opened.dtype == np.bool_
        self.dtype = np.dtype(np.int16 if small else np.int32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        _, z, y, x = self._files[0].shape
        return z, y, x

    def read(self, box: Box) -> np.ndarray:
        """Labels (Z, Y, X) within a box that lies inside the map.

        Raises:
            SegflowError: The file is damaged, or holds values in the box that are no labels. The error names the file.
        """
        stored = as_label(self._read[0](box)[0], self._file).astype(self.dtype, copy=False)
        return self._to_classes(stored)


def open_source(files: Sequence[Path], reader: ImageIO) -> OpenedImage | None:
    """Open an image to read it box by box.

    Args:
        files: One file per channel, or files that hold several, in channel order.
        reader: How to read them.

    Returns:
        The image; None if a file can only be read as a whole, which `ImageIO.read_image` does.

    Raises:
        SegflowError: A file cannot be read, or the files differ in shape or spacing.
    """
    if not files:
        raise SegflowError("an image needs at least one file")
    with ExitStack() as stack:
        opened = []
        for path in files:
            file = _opened(path, reader)
            if file is None:
                return None
            stack.callback(file.close)
            opened.append(file)
        check_same_grid(files, [file.shape for file in opened], [file.geometry for file in opened])
        image = OpenedImage(opened)
        stack.pop_all()
    return image


def open_label_source(file: Path, reader: ImageIO) -> OpenedLabel | None:
    """Open a label map to read it box by box.

    Returns:
        The label map; None if the file can only be read as a whole, which `ImageIO.read_label` does.

    Raises:
        SegflowError: The file cannot be read, or has several channels.
    """
    opened = _opened(file, reader, labels=True)
    if opened is None:
        return None
    try:
        check_one_channel(opened.shape[0], file)
    except SegflowError:
        opened.close()
        raise
    return OpenedLabel(opened, file, reader.labels.to_classes if isinstance(reader, MappedIO) else _as_stored)


@contextmanager
def label_sink(
    file: Path, shape: tuple[int, int, int], geometry: Geometry, reader: ImageIO, *, highest: int
) -> Iterator[VoxelSink]:
    """Write a label map box by box, as a whole or not at all.

    The file equals that of `ImageIO.write_label`, except where ``highest`` needs two bytes and no voxel has such a
    value: then voxels have two bytes here, and one there.

    Args:
        file: The file. It exists when the block ends without an error, and not before.
        shape: Voxels along z, y, x.
        geometry: Geometry of its image.
        reader: How to write it. A format that can only be written at once keeps all labels in memory: see
            `writes_in_boxes`.
        highest: The highest value that a voxel of the file may have, see `Labels.highest_written`.

    Returns:
        A sink for labels of any integer type; classes for a reader `in_classes`. Voxels that are never written are 0.

    Raises:
        SegflowError: A value is negative or above ``highest``, or the file cannot be written.
    """
    dtype, to_values = label_type(highest), reader.labels.to_values if isinstance(reader, MappedIO) else _as_stored
    created = _created(file, shape, dtype, geometry, reader)
    if created is None:
        array = np.zeros(shape, dtype)
        yield _LabelSink(ArraySink(array), highest, file, to_values)
        stored_reader(reader).write_label(array, geometry, file)
        return
    with created as sink:
        yield _LabelSink(sink, highest, file, to_values)


@contextmanager
def map_sink(file: Path, shape: tuple[int, int, int], geometry: Geometry, reader: ImageIO) -> Iterator[VoxelSink]:
    """Write a float32 map, such as a probability, box by box; as a whole or not at all.

    Args:
        file, shape, geometry, reader: See `label_sink`.

    Returns:
        A sink for float32. Voxels that are never written are 0.

    Raises:
        SegflowError: The format cannot store floats, or the file cannot be written.
    """
    dtype = np.dtype(np.float32)
    created = _created(file, shape, dtype, geometry, reader)
    if created is None:
        array = np.zeros(shape, dtype)
        yield ArraySink(array)
        reader.write_map(array, geometry, file)
        return
    with created as sink:
        yield sink


def writes_in_boxes(file: Path, reader: ImageIO) -> bool:
    """Whether `label_sink` and `map_sink` keep less than the whole volume in memory for a file of this name."""
    return _created(file, (1, 1, 1), np.dtype(np.uint8), Geometry((1.0, 1.0, 1.0)), reader) is not None


class _LabelSink:
    """Refuses what the stored type would change."""

    def __init__(self, sink: VoxelSink, highest: int, file: Path, to_values: Mapping) -> None:
        self._sink = sink
        self._dtype = label_type(highest)
        self._to_values = to_values
        self._highest = highest
        self._file = file

    def write(self, box: Box, values: np.ndarray) -> None:
        """See `VoxelSink.write`."""
        values = self._to_values(values)
        lowest, highest = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if lowest < 0 or highest > self._highest:
            raise SegflowError(
                f"cannot write {self._file}", found=f"labels {lowest}…{highest}", expected=f"0…{self._highest}"
            )
        self._sink.write(box, values.astype(self._dtype, copy=False))


def _reading(file: OpenFile) -> Callable[[Box], np.ndarray]:
    chunk = getattr(file, "chunk", None)
    return file.read if chunk is None else KeptSlabs(file.read, file.shape, file.dtype, chunk).read


def _opened(file: Path, reader: ImageIO, *, labels: bool = False) -> OpenFile | None:
    reader = stored_reader(reader)
    if not isinstance(reader, ImageFormat):
        return None
    return (reader.for_labels(file) if labels else reader).open_file(file, labels=labels)


def _created(
    file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry, reader: ImageIO
) -> AbstractContextManager[VoxelSink] | None:
    reader = stored_reader(reader)
    if not isinstance(reader, ImageFormat):
        return None
    return reader.for_labels(file).create_file(file, shape, dtype, geometry)
