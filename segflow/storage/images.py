"""Images in and out: which reader a dataset needs, and one case read whole.

The formats themselves stand in ``storage/image_formats``; header order x, y, z does not leave it.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from segflow.core.case import Case, CaseFiles
from segflow.core.errors import SegflowError
from segflow.storage.image_formats.contract import ImageHeader, ImageIO, mm
from segflow.storage.image_formats.natural_io import NaturalImage2DIO
from segflow.storage.image_formats.nibabel_io import NibabelIO, NibabelIOWithReorient
from segflow.storage.image_formats.nifti_files import NIFTI_ENDINGS, is_nifti, read_nifti_header
from segflow.storage.image_formats.nifti_forms import form_conflict
from segflow.storage.image_formats.placement import (
    is_left_handed,
    is_sheared,
    left_right_axis,
    orientation,
    same_placement,
)
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO, SimpleITKIOWithReorient
from segflow.storage.image_formats.tiff_io import Tiff3DIO

__all__ = [
    "ImageHeader",
    "ImageIO",
    "check_channels",
    "choose_reader",
    "form_conflict",
    "is_left_handed",
    "is_sheared",
    "left_right_axis",
    "mm",
    "orientation",
    "read_case",
    "readable_endings",
    "reader_by_name",
    "reader_of",
    "register_reader",
    "same_placement",
    "voxels_of",
]

log = logging.getLogger(__name__)

TRANSPARENCY = " The fourth channel of a picture is its transparency: saved without, it has three."
SAME_GRID = "Resample one onto the other's grid; where only the header is wrong, copy the image's."

_READERS: dict[str, ImageIO] = {
    reader.name: reader
    for reader in (
        NaturalImage2DIO(),
        SimpleITKIO(),
        Tiff3DIO(),
        NibabelIO(),
        NibabelIOWithReorient(),
        SimpleITKIOWithReorient(),
    )
}
"""In the order in which they are tried (recipe 1.5)."""


def register_reader(reader: ImageIO) -> None:
    """Make a reader of one's own known by its name; it is tried before the shipped ones for its endings.

    Args:
        reader: Must be picklable, as cases are read in worker processes.
    """
    others = {name: known for name, known in _READERS.items() if name != reader.name}
    _READERS.clear()
    _READERS.update({reader.name: reader, **others})


def reader_by_name(name: str) -> ImageIO:
    """The reader of this name, as plans and dataset.json give it.

    Raises:
        SegflowError: There is none.
    """
    if name not in _READERS:
        near = difflib.get_close_matches(name, _READERS, n=1)
        raise SegflowError(
            f"unknown reader '{name}'",
            expected=" | ".join(_READERS),
            fix=f"Did you mean '{near[0]}'?" if near else None,
        )
    return _READERS[name]


def choose_reader(file_ending: str, example: Path | None = None, name: str | None = None) -> ImageIO:
    """The reader for a dataset.

    Args:
        file_ending: Its files' ending, with the dot.
        example: One of its images; the first reader for the ending that understands it is taken.
        name: The reader that dataset.json asks for, if it does. An unknown name is warned of and passed over.

    Raises:
        SegflowError: No reader knows the ending, or none understands the example.
    """
    if name is not None:
        try:
            return reader_by_name(name)
        except SegflowError as error:
            log.warning("%s; choosing by file ending instead", error)
    candidates = [reader for reader in _READERS.values() if file_ending.lower() in reader.endings]
    if not candidates:
        known = sorted({ending for reader in _READERS.values() for ending in reader.endings})
        raise SegflowError("no reader for files of this ending", found=repr(file_ending), expected=" ".join(known))
    reasons = []
    for reader in candidates:
        if example is None:
            return reader
        try:
            reader.read_header(example)
        except SegflowError as error:
            reasons.append(f"{reader.name}: {error}")
        else:
            return reader
    raise SegflowError(f"no reader understands {example} ({'; '.join(reasons)})")


def readable_endings(reader: ImageIO, file_ending: str) -> tuple[str, ...]:
    """Endings of the files that a dataset's reader understands, in lower case; the dataset's own comes first."""
    kinds = [reader.endings, *(getattr(kind, "endings", ()) for kind in type(reader).__mro__)]
    own = next((endings for endings in kinds if isinstance(endings, tuple) and endings), ())
    nifti = NIFTI_ENDINGS if set(own) & set(NIFTI_ENDINGS) else ()
    return tuple(dict.fromkeys((file_ending.lower(), *own, *nifti)))


def reader_of(files: Iterable[Path], file_ending: str, name: str | None = None) -> ImageIO:
    """The reader for a dataset's files: the first that understands one of them, so that a damaged file does not decide.

    Args:
        files: Images or label maps.
        file_ending: Their ending, with its dot.
        name: The reader that a person or dataset.json asks for.

    Raises:
        SegflowError: No reader knows the ending.
    """
    for file in files:
        try:
            return choose_reader(file_ending, file, name)
        except SegflowError:
            continue
    return choose_reader(file_ending, None, name)


def read_case(files: CaseFiles, reader: ImageIO, *, channels: int | None = None) -> Case:
    """Read one case whole.

    Args:
        files: Where it lies.
        reader: How to read it.
        channels: Channels that the dataset declares; unchecked where None.

    Returns:
        The case in image space: image float32 (C, Z, Y, X), label int16 (Z, Y, X) or None, geometry of the image.

    Raises:
        SegflowError: A file cannot be read, channels are missing or too many, or image and label lie on different
            grids. Names the case.
    """
    try:
        image, geometry = reader.read_image(files.images)
        if channels is not None:
            check_channels(image.shape[0], channels)
        label: np.ndarray | None = None
        if files.label is not None:
            label, label_geometry = reader.read_label(files.label)
            if label.shape != image.shape[1:]:
                raise SegflowError(
                    "image and label differ in shape (z, y, x)",
                    found=f"image {image.shape[1:]}, label {label.shape}",
                    fix=SAME_GRID,
                )
            if not np.allclose(label_geometry.spacing, geometry.spacing):
                raise SegflowError(
                    "image and label differ in spacing (z, y, x)",
                    found=f"image {mm(geometry)}, label {mm(label_geometry)}",
                    fix=SAME_GRID,
                )
    except SegflowError as error:
        raise error.of_case(files.case_id) from error
    return Case(files.case_id, image, label, geometry)


def voxels_of(file: Path, reader: ImageIO) -> int:
    """Voxels of one channel by the header; 0 where that cannot be read, which reading the file whole will say better.

    Placement, which takes most of the time that a header takes, is not looked at in a NIfTI.
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
