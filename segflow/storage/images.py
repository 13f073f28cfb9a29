"""Reading of whole cases, and questions about image files.

The formats are in ``storage/image_formats``; header order x, y, z does not leave that package. ``storage/readers.py``
chooses the format of a dataset.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from segflow.core.case import Case, CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.labels import Labels
from segflow.core.missing_channels import with_missing
from segflow.execution.machine import granted_threads, processor_count
from segflow.execution.threads import meanwhile
from segflow.execution.worker import is_worker
from segflow.storage.image_formats.contract import ImageHeader, ImageIO, mm
from segflow.storage.image_formats.nifti_files import is_nifti, read_nifti_header
from segflow.storage.image_formats.nifti_forms import form_conflict
from segflow.storage.image_formats.placement import (
    is_left_handed,
    is_sheared,
    left_right_axis,
    may_be_turned,
    orientation,
    same_placement,
    shown_as,
)
from segflow.storage.label_mapping import stored_reader
from segflow.storage.label_values import label_values, refuse_unknown_values
from segflow.storage.readers import (
    choose_reader,
    is_shipped,
    readable_endings,
    reader_by_name,
    reader_of,
)

__all__ = [
    "ImageHeader",
    "ImageIO",
    "check_channels",
    "check_same_space",
    "choose_reader",
    "form_conflict",
    "is_left_handed",
    "is_sheared",
    "left_right_axis",
    "may_be_turned",
    "mm",
    "orientation",
    "read_case",
    "readable_endings",
    "reader_by_name",
    "reader_of",
    "same_placement",
    "shape_advice",
    "shown_as",
    "voxels_of",
]

LARGE_BYTES = 1 << 22
"""Bytes of an image's file from which on a label is read beside it."""
TRANSPARENCY = " The fourth channel of a picture is its transparency: saved without, it has three."
SAME_GRID = "Resample one onto the other's grid. If only the header is wrong, copy the image's."
TURNED = (
    "Stored pixels are used. If the label map was drawn on what viewers show, save the picture turned, without EXIF's "
    "orientation; else remove that tag."
)


def read_case(files: CaseFiles, reader: ImageIO, *, channels: int | None = None, labels: Labels | None = None) -> Case:
    """Read image and label map of a case.

    Args:
        files: Its files.
        reader: How to read them.
        channels: Number of channels that the dataset declares; None leaves it unchecked.
        labels: The dataset's labels, if the label map may hold no others; see `refuse_unknown_values`.

    Returns:
        The case in image space: image float32 (C, Z, Y, X), with zeros in channels that are missing, label int16
        (Z, Y, X) or None, geometry of the image.

    Raises:
        SegflowError: A file cannot be read, channels are missing or too many, image and label lie on different grids,
            or the label map holds values that the dataset does not declare. The error names the case.
    """

    label: np.ndarray | None = None
    try:
        with _label_meanwhile(files, reader, with_values=labels is not None) as read_label:
            image, geometry = reader.read_image(files.images)
            if channels is not None:
                check_channels(image.shape[0] + len(files.missing), channels)
            image = with_missing(image, files.missing)
            if (read := read_label()) is not None:
                label, label_geometry, values = read
                check_same_space(image.shape[1:], label.shape, geometry, label_geometry)
                if labels is not None:
                    refuse_unknown_values(values, labels, files.case_id)
    except SegflowError as error:
        raise error.of_case(files.case_id) from error
    return Case(files.case_id, image, label, geometry, files.missing)


def _label_meanwhile(
    files: CaseFiles, reader: ImageIO, *, with_values: bool
) -> AbstractContextManager[Callable[[], tuple[np.ndarray, Geometry, list[int]] | None]]:
    """A function that gives the label map, its geometry, and its values if they are wanted; None without a label map.

    A thread reads it while the block reads the image, if that is worth it. Only NIfTI files are read so, which no
    library of others touches, and by shipped readers only.
    """

    def read() -> tuple[np.ndarray, Geometry, list[int]] | None:
        if files.label is None:
            return None
        label, geometry = reader.read_label(files.label)
        return label, geometry, label_values(label) if with_values else []

    worth = (
        files.label is not None
        and is_shipped(stored_reader(reader))
        and all(is_nifti(file) for file in (*files.images, files.label))
        and _bytes_of(files.images[0]) > LARGE_BYTES
    )
    threads = granted_threads() if is_worker() else processor_count()
    return meanwhile(read, threads if worth else 1)


def _bytes_of(file: Path) -> int:
    """Bytes of a file; 0 if there is none, which reading it reports."""
    try:
        return os.path.getsize(file)
    except OSError:
        return 0


def check_same_space(
    shape: Sequence[int], label_shape: Sequence[int], geometry: Geometry, label_geometry: Geometry
) -> None:
    """Refuse an image and a label map on different grids.

    Args:
        shape, label_shape: Voxels along z, y, x.
        geometry, label_geometry: Their geometries.

    Raises:
        SegflowError: Shapes or spacings differ.
    """
    if tuple(label_shape) != tuple(shape):
        raise SegflowError(
            "image and label differ in shape (z, y, x)",
            found=f"image {tuple(shape)}, label {tuple(label_shape)}",
            fix=shape_advice(geometry, label_geometry),
        )
    if not np.allclose(label_geometry.spacing, geometry.spacing):
        raise SegflowError(
            "image and label differ in spacing (z, y, x)",
            found=f"image {mm(geometry)}, label {mm(label_geometry)}",
            fix=SAME_GRID,
        )


def shape_advice(geometry: Geometry, other: Geometry) -> str:
    """What to do about two files of a case that differ in shape."""
    turns = shown_as(geometry), shown_as(other)
    if turns[0] == turns[1]:
        return SAME_GRID
    return f"Viewers turn one of them by EXIF (orientation {turns[0]} and {turns[1]}). {TURNED}"


def voxels_of(file: Path, reader: ImageIO) -> int:
    """Voxels of one channel by the header; 0 if the header cannot be read, which reading the whole file reports.

    The placement of a NIfTI is not read, since that takes most of the time.
    """
    try:
        size = read_nifti_header(file).size[:3] if is_nifti(file) else reader.read_header(file).shape
    except SegflowError:
        return 0
    return math.prod(size)


def check_channels(found: int, declared: int) -> None:
    """Refuse an image with another number of channels than the dataset declares.

    Raises:
        SegflowError: They differ.
    """
    if found != declared:
        raise SegflowError(
            "the image has another number of channels than dataset.json declares",
            found=found,
            expected=declared,
            fix="Correct channel_names, or the files of this case."
            + (TRANSPARENCY if (found, declared) == (4, 3) else ""),
        )
