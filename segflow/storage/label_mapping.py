"""Readers that turn the values of label maps into classes, and back as they write; see `Labels`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segflow.core.geometry import Geometry
from segflow.core.labels import Labels
from segflow.storage.image_formats.contract import ImageHeader, ImageIO


@dataclass(frozen=True, slots=True)
class MappedIO:
    """An `ImageIO` whose label maps hold classes, while their files hold values.

    Attributes:
        stored: The reader of the files.
        labels: The label definition.
    """

    stored: ImageIO
    labels: Labels

    @property
    def name(self) -> str:
        """See `ImageIO`."""
        return self.stored.name

    @property
    def endings(self) -> tuple[str, ...]:
        """See `ImageIO`."""
        return self.stored.endings

    @property
    def kept_bytes(self) -> int:
        """See `ImageFormat`."""
        return getattr(self.stored, "kept_bytes", 0)

    def read_image(self, files: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
        """Read an image (C, Z, Y, X); see `ImageIO`."""
        return self.stored.read_image(files)

    def read_label(self, file: Path) -> tuple[np.ndarray, Geometry]:
        """Read a label map (Z, Y, X) as classes; see `Labels.to_classes`."""
        label, geometry = self.stored.read_label(file)
        return self.labels.to_classes(label), geometry

    def read_header(self, file: Path) -> ImageHeader:
        """See `ImageIO`."""
        return self.stored.read_header(file)

    def write_label(self, label: np.ndarray, geometry: Geometry, file: Path) -> None:
        """Write classes (Z, Y, X) as values; see `Labels.to_values`."""
        self.stored.write_label(self.labels.to_values(label), geometry, file)

    def write_map(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        """Write a map (Z, Y, X); see `ImageIO`."""
        self.stored.write_map(values, geometry, file)


def in_classes(reader: ImageIO, labels: Labels) -> ImageIO:
    """A reader whose label maps hold the classes of a dataset; the same reader if values and classes are the same."""
    return MappedIO(reader, labels) if labels.values else reader


def stored_reader(reader: ImageIO) -> ImageIO:
    """The reader of the files themselves, whose label maps hold values."""
    return reader.stored if isinstance(reader, MappedIO) else reader
