"""The interface of image formats, and the checks that all of them share (recipe 1.5)."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.voxels import VoxelSink
from segflow.storage.image_formats.placement import same_placement
from segflow.storage.listing import missing_file

log = logging.getLogger(__name__)

LEAST_MM, MOST_MM = 1e-12, 1e12
"""Bounds of lengths in mm: no image has smaller or larger ones, and products of three stay finite."""
FLAT = 1e-6
"""Three directions lie in a plane if the volume that they span is below this."""

RESAVE = "Is the file complete? Copy or export it again."


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of a file.

    Attributes:
        shape: Voxels along z, y, x; a 2D image has z = 1.
        channels: Channels that this one file holds.
        geometry: Spacing, and the values that the writer needs.
        dtype: numpy's name of the stored voxel type.
    """

    shape: tuple[int, int, int]
    channels: int
    geometry: Geometry
    dtype: str


class ImageIO(Protocol):
    """One kind of image file. Implement these members for a format of your own."""

    @property
    def name(self) -> str:
        """Name in plans and dataset.json; nnU-Net's class name if it has one."""

    @property
    def endings(self) -> tuple[str, ...]:
        """Lower-case file endings, with the dot, that the format is tried for."""

    def read_image(self, files: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
        """Read one case's image: float32 (C, Z, Y, X), channels in the order of the files."""

    def read_label(self, file: Path) -> tuple[np.ndarray, Geometry]:
        """Read a label map: int16 (Z, Y, X), or int32 if a value needs it."""

    def read_header(self, file: Path) -> ImageHeader:
        """Read the header, without the voxels."""

    def write_label(self, label: np.ndarray, geometry: Geometry, file: Path) -> None:
        """Write a label map (Z, Y, X) with the geometry of its image, as a whole or not at all."""

    def write_map(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        """Write a float32 map (Z, Y, X), such as a probability, with the geometry of its image."""


class OpenFile(Protocol):
    """An image file that is open, and whose voxels are read box by box.

    A file of packed chunks may have an attribute ``chunk``, their voxels along z, y, x. Those along a slice are then
    unpacked once and kept, see `KeptSlabs`.

    Attributes:
        shape: Channels, and voxels along z, y, x.
        geometry: As `ImageFormat.read_file` returns it.
        dtype: Type of the voxels as they are read.
    """

    shape: tuple[int, int, int, int]
    geometry: Geometry
    dtype: np.dtype

    def read(self, box: Box) -> np.ndarray:
        """The voxels (C, \\*box.shape) that `ImageFormat.read_file` gives for a box inside the image."""

    def close(self) -> None:
        """Close the file."""


class ImageFormat(ABC):
    """An `ImageIO` built from three methods for a single file: `read_file`, `read_header` and `write_file`.

    A format whose files can be read and written in parts has `open_file` and `create_file` too.
    """

    name: str
    endings: tuple[str, ...]
    kept_bytes = 0
    """Memory that an open file may keep for the next readings."""
    other_labels: ImageFormat | None = None
    """Format of label maps whose ending this one does not know."""

    def __init_subclass__(cls) -> None:
        """Let a class that has a `read_file` of its own, and no `read_float_file`, read floats through it."""
        super().__init_subclass__()
        if "read_file" in vars(cls) and "read_float_file" not in vars(cls):
            cls.read_float_file = ImageFormat.read_float_file  # type: ignore[method-assign]

    def for_labels(self, file: Path) -> ImageFormat:
        """The format that reads and writes a label map of a dataset whose images have this one."""
        known = self.other_labels is None or file.name.lower().endswith(self.endings)
        return self if known or self.other_labels is None else self.other_labels

    @abstractmethod
    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        """Voxels as stored, (C, Z, Y, X), any type. Raises `SegflowError` if the file cannot be read."""

    def read_float_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        """Like `read_file`, for formats that read quicker what becomes float32 in the end.

        Returns:
            float32 (C, Z, Y, X) that nobody else holds, and the geometry.
        """
        voxels, geometry = self.read_file(file)
        return voxels.astype(np.float32), geometry

    def read_label_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        """Like `read_file`, for formats in which label maps store values or placement in another way than images."""
        return self.read_file(file)

    @abstractmethod
    def read_header(self, file: Path) -> ImageHeader:
        """Read the header, without the voxels.

        Raises:
            SegflowError: The file is missing, unreadable or of another kind.
        """

    @abstractmethod
    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        """Write voxels (Z, Y, X) in their own type, as a whole or not at all."""

    def open_file(self, file: Path, *, labels: bool = False) -> OpenFile | None:
        """Open a file to read it box by box; None if it can only be read as a whole.

        Args:
            file: The file.
            labels: Whether voxels are those of `read_label_file` instead of `read_file`.

        Raises:
            SegflowError: The file cannot be read.
        """
        return None

    def create_file(
        self, file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry
    ) -> AbstractContextManager[VoxelSink] | None:
        """Like `write_file`, for voxels that are written box by box; None if they must be written at once.

        Args:
            file: The file, which exists when the block ends without an error, and not before.
            shape: Voxels along z, y, x.
            dtype: Type of the voxels. Those that are never written are 0.
            geometry: See `write_file`.
        """
        return None

    def read_image(self, files: Sequence[Path]) -> tuple[np.ndarray, Geometry]:
        """Read one case's image.

        Args:
            files: One file per channel, or files that hold several, in channel order.

        Returns:
            float32 (C, Z, Y, X), and the geometry of the first file.

        Raises:
            SegflowError: A file cannot be read, or the files differ in shape or spacing.
        """
        if not files:
            raise SegflowError("an image needs at least one file")
        if len(files) == 1:
            image, geometry = self.read_float_file(files[0])
            return np.ascontiguousarray(image), geometry
        parts = [self.read_file(file) for file in files]
        first, geometry = parts[0]
        check_same_grid(files, [voxels.shape for voxels, _ in parts], [own for _, own in parts])
        image = np.empty((sum(voxels.shape[0] for voxels, _ in parts), *first.shape[1:]), dtype=np.float32)
        done = 0
        for voxels, _ in parts:
            image[done : done + voxels.shape[0]] = voxels
            done += voxels.shape[0]
        return image, geometry

    def read_label(self, file: Path) -> tuple[np.ndarray, Geometry]:
        """Read a label map.

        Returns:
            int16 (Z, Y, X), or int32 if a value needs it; and its geometry.

        Raises:
            SegflowError: The file cannot be read, has several channels, or values that are not whole numbers.
        """
        voxels, geometry = self.for_labels(file).read_label_file(file)
        check_one_channel(voxels.shape[0], file)
        return as_label(voxels[0], file), geometry

    def write_label(self, label: np.ndarray, geometry: Geometry, file: Path) -> None:
        """Write a label map (Z, Y, X): uint8 if all values are up to 255, else uint16.

        Raises:
            SegflowError: A value is negative or above 65535, or the file cannot be written.
        """
        lowest, highest = (int(label.min()), int(label.max())) if label.size else (0, 0)
        if lowest < 0 or highest > np.iinfo(np.uint16).max:
            raise SegflowError(f"cannot write {file}", found=f"labels {lowest}…{highest}", expected="0…65535")
        self.for_labels(file).write_file(label.astype(label_type(highest), copy=False), geometry, file)

    def write_map(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        """Write a float32 map (Z, Y, X).

        Raises:
            SegflowError: The format cannot store floats, or the file cannot be written.
        """
        self.write_file(values.astype(np.float32, copy=False), geometry, file)


def check_same_grid(files: Sequence[Path], shapes: Sequence[Sequence[int]], geometries: Sequence[Geometry]) -> None:
    """Refuse channels on different grids. A different placement is logged.

    Args:
        files: The files of one image.
        shapes: (C, Z, Y, X) of each file.
        geometries: The geometry of each file.

    Raises:
        SegflowError: Shapes or spacings differ.
    """
    first, geometry = tuple(shapes[0][1:]), geometries[0]
    for file, shape, own in zip(files[1:], shapes[1:], geometries[1:], strict=True):
        if tuple(shape[1:]) != first:
            raise SegflowError(
                "the channels differ in shape (z, y, x)",
                found=f"{file.name} {tuple(shape[1:])}, {files[0].name} {first}",
                fix="Resample all channels to one grid.",
            )
        if not np.allclose(own.spacing, geometry.spacing):
            raise SegflowError(
                "the channels differ in spacing (z, y, x)",
                found=f"{file.name} {mm(own)}, {files[0].name} {mm(geometry)}",
                fix="Resample all channels to one grid.",
            )
        if not same_placement(own, geometry):
            log.warning("%s and %s differ in origin or direction; the first is used", files[0], file)


def check_one_channel(channels: int, file: Path) -> None:
    """Refuse a label map with several numbers per voxel.

    Raises:
        SegflowError: It has another number of channels than one.
    """
    if channels != 1:
        raise SegflowError(
            f"the label map {file} has several channels",
            found=f"{channels} channels",
            expected="one number per voxel",
            fix="A colour picture must be turned into label values first.",
        )


def label_type(highest: int) -> np.dtype:
    """Type in which label maps with values up to ``highest`` are written."""
    return np.dtype(np.uint8 if highest <= 255 else np.uint16)


def as_label(voxels: np.ndarray, file: Path) -> np.ndarray:
    """Voxels of any type and any shape as labels: int16, or int32 if a value needs it. Floats must be whole numbers.

    Raises:
        SegflowError: A value is NaN, infinite, fractional, or too large for int32.
    """
    if voxels.dtype.kind == "f":
        whole = np.rint(voxels)
        wrong = ~(voxels == whole) | np.isinf(voxels)  # NaN differs from itself
        if wrong.any():
            raise SegflowError(
                f"the label map {file} holds values that are not whole numbers",
                found=f"{float(voxels[wrong][0]):.9g}, in {int(wrong.sum())} voxels in all",
                expected="whole numbers, stored as integer or float",
                fix="Was it resampled with interpolation? Use nearest neighbour for labels.",
            )
        voxels = whole
    if voxels.dtype in (np.uint8, np.int8, np.int16, np.bool_):
        return voxels.astype(np.int16)
    lowest, highest = (int(voxels.min()), int(voxels.max())) if voxels.size else (0, 0)
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= lowest and highest <= np.iinfo(dtype).max:
            return voxels.astype(dtype)
    raise SegflowError(
        f"the label map {file} holds values that are no labels",
        found=f"values from {lowest} to {highest}",
        expected=f"whole numbers up to {np.iinfo(np.int32).max}",
        fix="Is it an image, or damaged?",
    )


def check_spacing(spacing: Sequence[float], file: Path | str) -> None:
    """Refuse spacing that is not a distance.

    Args:
        spacing: mm along any axes, in the file's own order.
        file: Name for the error: a file, or a text for values without a file.

    Raises:
        SegflowError: An entry is zero, negative or not finite.
    """
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        raise SegflowError(
            f"{file.name if isinstance(file, Path) else file} has a spacing that is zero, negative or not a number",
            found=tuple(float(s) for s in spacing),
            expected="millimetres above 0",
            fix="Correct the file's header.",
        )
    if not all(LEAST_MM <= s <= MOST_MM for s in spacing):
        raise SegflowError(
            f"{file.name if isinstance(file, Path) else file} has a spacing beyond all bounds",
            found=tuple(float(s) for s in spacing),
            expected="millimetres",
            fix="Correct the file's header.",
        )


def check_affine(affine: np.ndarray, file: Path) -> None:
    """Refuse an affine that is not a placement in the patient.

    Args:
        affine: (4, 4), voxel index → mm.
        file: Named in the error.

    Raises:
        SegflowError: A number is not finite or beyond all bounds, or two axes run the same way.
    """
    rows = np.asarray(affine, dtype=np.float64)[:3].tolist()
    problem = None
    if not all(abs(number) <= MOST_MM for row in rows for number in row):  # false for NaN
        problem = "has a position or direction that is not a number, or beyond all bounds"
    else:
        (a, b, c), (d, e, f), (g, h, i) = (row[:3] for row in rows)
        lengths = math.hypot(a, d, g), math.hypot(b, e, h), math.hypot(c, f, i)
        volume = abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
        if min(lengths) < LEAST_MM or volume < FLAT * math.prod(lengths):
            problem = "has axes that do not span space"
    if problem is not None:
        found = ", ".join("(" + " ".join(f"{n:.6g}" for n in row) + ")" for row in rows)
        raise SegflowError(f"{file} {problem}", found=found, fix="Correct the file's header.")


def unreadable(file: Path, reason: object) -> SegflowError:
    """The error for a file that cannot be read, and why."""
    if not file.exists():
        return missing_file(file)
    return SegflowError(f"cannot read {file}: {reason}", fix=RESAVE)


def mm(geometry: Geometry) -> str:
    """Spacing for messages."""
    return "(" + ", ".join(f"{s:.6g}" for s in geometry.spacing) + ") mm"
