"""A reader that turns images of an unusual orientation to another one, and label maps back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from segflow.core.geometry import Geometry
from segflow.core.voxels import VoxelSink
from segflow.storage.image_formats.contract import ImageFormat, ImageHeader, ImageIO, OpenFile
from segflow.storage.image_formats.placement import orientation, reorient, restore_orientation
from segflow.storage.image_formats.turned import TurnedFile, turned_sink

Choose = Callable[[str], str | None]
"""Orientation of an image, such as ``RAS`` → the one to turn it to, or None to leave it."""


def turned(voxels: np.ndarray, geometry: Geometry, choose: Choose) -> tuple[np.ndarray, Geometry]:
    """Turn an image if it should be. One that does not say its orientation, or is oblique, stays as it is.

    Args:
        voxels: (C, Z, Y, X) as read.
        geometry: Its geometry.
        choose: See `Choose`.
    """
    found = orientation(geometry)
    to = None if found is None else choose(found)
    return (voxels, geometry) if to is None else reorient(voxels, geometry, to)


class TurnedReader(ImageFormat):
    """Reads images as another reader does, turned where they should be, and writes what was turned in the file's axes.

    Args:
        reader: The other reader.
        choose: See `Choose`.
    """

    def __init__(self, reader: ImageIO, choose: Choose) -> None:
        self._reader = reader
        self._choose = choose
        self.name = reader.name
        self.endings = reader.endings
        self.kept_bytes = getattr(reader, "kept_bytes", 0)

    def for_labels(self, file: Path) -> ImageFormat:
        """See `ImageFormat.for_labels`."""
        own = self._reader.for_labels(file) if isinstance(self._reader, ImageFormat) else self._reader
        return self if own is self._reader else TurnedReader(own, self._choose)

    def read_image(self, files: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
        image, geometry = self._turn(*self._reader.read_image(files))
        return np.ascontiguousarray(image), geometry

    def read_label(self, file: Path) -> tuple[np.ndarray, Geometry]:
        label, geometry = self._reader.read_label(file)
        turned_label, geometry = self._turn(label[None], geometry)
        return np.ascontiguousarray(turned_label[0]), geometry

    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return self.read_image([file])

    def read_header(self, file: Path) -> ImageHeader:
        """Read the header, turned as the image is."""
        header = self._reader.read_header(file)
        shaped = np.broadcast_to(np.zeros((), bool), (header.channels, *header.shape))
        voxels, geometry = self._turn(shaped, header.geometry)
        _, z, y, x = voxels.shape
        return replace(header, shape=(z, y, x), geometry=geometry)

    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        self.write_map(values, geometry, file)

    def write_label(self, label: np.ndarray, geometry: Geometry, file: Path) -> None:
        self._reader.write_label(*restore_orientation(label, geometry), file)

    def write_map(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        self._reader.write_map(*restore_orientation(values, geometry), file)

    def open_file(self, file: Path, *, labels: bool = False) -> OpenFile | None:
        opened = self._reader.open_file(file, labels=labels) if isinstance(self._reader, ImageFormat) else None
        if opened is None:
            return None
        found = orientation(opened.geometry)
        return opened if found is None or self._choose(found) is None else TurnedFile(opened, self._turn)

    def create_file(
        self, file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry
    ) -> AbstractContextManager[VoxelSink] | None:
        if not isinstance(self._reader, ImageFormat):
            return None
        if "reoriented_affine" not in geometry.header:
            return self._reader.create_file(file, shape, dtype, geometry)
        return turned_sink(self._reader.create_file, file, shape, dtype, geometry)

    def _turn(self, voxels: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
        return turned(voxels, geometry, self._choose)
