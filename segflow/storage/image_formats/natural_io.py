"""Photographs and microscopy: PNG, BMP, TIFF and JPEG through Pillow, channels from one file (recipe 1.5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.image_formats.contract import ImageFormat, ImageHeader, unreadable
from segflow.storage.image_formats.header_checks.pictures import check_picture
from segflow.storage.image_formats.pictures import (
    channels_and_type,
    colours,
    is_planar,
    label_values,
    orientation_of,
    stored_size,
)
from segflow.storage.image_formats.placement import SHOWN_AS
from segflow.storage.image_formats.read_apart import reads_apart
from segflow.storage.image_formats.tiff_io import has_spacing_beside
from segflow.storage.json_files import written_whole

if TYPE_CHECKING:
    from PIL import Image

FLAT_GEOMETRY = Geometry((999.0, 1.0, 1.0), {"ndim": 2})
LOSSY_ENDINGS = (".jpg", ".jpeg")
LOSSY = ("JPEG", "MPO")
"""Pillow's names of JPEG, by content: such a file may end in .png. MPO is that of some cameras."""
TIFF_ENDINGS = (".tif", ".tiff")
COLOURS = (3, 4)


class NaturalImage2DIO(ImageFormat):
    """Arrays (C, 1, height, width); grey pictures have one channel, colour ones three or four.

    A palette is applied in images; a label map's values are the numbers that its file stores.
    """

    name = "NaturalImage2DIO"
    endings = (".png", ".bmp", ".tif", *LOSSY_ENDINGS)

    @reads_apart(check_picture)
    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        with _opened(file) as picture:
            geometry = _geometry(picture)
            return _channels_first(colours(picture, file), file), geometry

    @reads_apart(check_picture)
    def read_label_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        with _opened(file) as picture:
            if picture.format in LOSSY:
                raise SegflowError(
                    f"{file.name} cannot be a label map: JPEG changes values, most of all along the edges of labels",
                    fix="Save it as .png where it was drawn. If only JPEG is left, set each pixel to the nearest label "
                    "and save that as .png.",
                )
            geometry = _geometry(picture)
            return _channels_first(label_values(picture, file), file), geometry

    @reads_apart(check_picture)
    def read_header(self, file: Path) -> ImageHeader:
        """Read the header, without the pixels.

        Raises:
            SegflowError: The file is missing, unreadable, or a stack of several pictures.
        """
        with _opened(file) as picture:
            channels, dtype = channels_and_type(picture)
            return ImageHeader((1, *stored_size(picture)), channels, _geometry(picture), dtype)

    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        ending = file.suffix.lower()
        if ending in LOSSY_ENDINGS:
            raise SegflowError(
                f"cannot write {file}: JPEG changes label values",
                fix="Use .png for label maps (file_ending in dataset.json).",
            )
        if values.dtype == np.float32 and ending not in TIFF_ENDINGS:
            raise SegflowError(f"cannot write {file}: {ending} holds no decimals", fix="Use .tif for maps.")
        if values.dtype == np.uint16 and ending == ".bmp":
            raise SegflowError(f"cannot write {file}: BMP holds labels up to 255 only", fix="Use .png.")
        from PIL import Image

        picture = Image.fromarray(np.ascontiguousarray(values[0]))
        with written_whole(file) as temporary:
            picture.save(temporary)


def _geometry(picture: Image.Image) -> Geometry:
    turn = orientation_of(picture)
    header = FLAT_GEOMETRY.header if turn == 1 else {**FLAT_GEOMETRY.header, SHOWN_AS: turn}
    return Geometry(FLAT_GEOMETRY.spacing, header)


def _channels_first(pixels: np.ndarray, file: Path) -> np.ndarray:
    if pixels.ndim == 2:
        return pixels[None, None]
    if pixels.shape[-1] not in COLOURS:
        raise SegflowError(f"{file.name} has {pixels.shape[-1]} channels", expected="1, 3 or 4")
    return pixels.transpose(2, 0, 1)[:, None]


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The picture in a file. Every failure while it is open becomes an error about the file."""
    from PIL import Image, UnidentifiedImageError

    # Errors of Pillow, and of ITK for deep colours, for a file that they cannot read.
    damage = (OSError, RuntimeError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError)
    try:
        with Image.open(file) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise SegflowError(
                    f"{file.name} is a stack of {picture.n_frames} pictures",  # type: ignore[attr-defined]
                    expected="one picture",
                    fix="Use the reader Tiff3DIO for 3D TIFF.",
                )
            if is_planar(picture) and has_spacing_beside(file):
                raise SegflowError(
                    f"{file.name} is a stack of slices, since a file beside it gives their distance",
                    expected="one picture",
                    fix="Use the reader Tiff3DIO for 3D TIFF.",
                )
            yield picture
    except SegflowError:
        raise
    except damage as error:
        raise unreadable(file, error) from error
