"""Which images are read box by box, and how."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from segflow.core.case import CaseFiles, OpenCase
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.missing_channels import WithMissing
from segflow.core.voxels import ArrayLabel, LabelSource
from segflow.execution.machine import memory_bytes
from segflow.inference.planes import Room
from segflow.storage.images import ImageIO, voxels_of
from segflow.storage.open_volumes import open_label_source, open_source

VALUE_BYTES = 4
COPIES = 5
"""Arrays of an image's size that preparing it as a whole may hold at the same time."""


def image_bytes(images: Sequence[Path], reader: ImageIO) -> int:
    """Bytes of an image as float32, by the headers of its files (one per channel)."""
    return VALUE_BYTES * sum(voxels_of(file, reader) for file in images)


def is_large(size: int) -> bool:
    """Whether an image of so many bytes is read box by box."""
    return size > Room.of_machine().image


def fits_whole(size: int) -> bool:
    """Whether an image of so many bytes may be prepared as a whole where that is the only way."""
    return COPIES * size <= memory_bytes()


def open_case(files: CaseFiles, reader: ImageIO, previous: Path | None, stack: ExitStack) -> OpenCase | None:
    """Open the images of a case to read them box by box.

    Args:
        files: The files.
        reader: How to read them.
        previous: Label map of a cascade's previous stage.
        stack: Closes them.

    Returns:
        The case; None if a format can only be read as a whole.

    Raises:
        SegflowError: A file cannot be read. The error names the case.
    """
    try:
        image = open_source(files.images, reader)
        if image is None:
            return None
        stack.enter_context(image)
        label = None if previous is None else _open_label(previous, reader, stack)
        if label is not None:
            check_grid(label.shape, image.shape[1:])
    except SegflowError as error:
        raise error.of_case(files.case_id) from error
    voxels = WithMissing(image, files.missing) if files.missing else image
    return OpenCase(files.case_id, voxels, label, image.geometry, files.missing)


def check_grid(label: Sequence[int], image: Sequence[int]) -> None:
    """Refuse a previous stage's label map of another shape than the image.

    Raises:
        SegflowError: The shapes differ.
    """
    if tuple(label) != tuple(image):
        raise SegflowError(
            "the previous stage's label map has another shape than the image",
            found=tuple(label),
            expected=tuple(image),
        )


def _open_label(file: Path, reader: ImageIO, stack: ExitStack) -> LabelSource:
    opened = open_label_source(file, reader)
    if opened is not None:
        return stack.enter_context(opened)
    label: tuple[np.ndarray, Geometry] = reader.read_label(file)
    return ArrayLabel(label[0])
