"""Photographs and microscopy: PNG, BMP, TIFF and JPEG through Pillow, channels from one file (recipe 1.5)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageMode, UnidentifiedImageError

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.image_formats.contract import ImageFormat, ImageHeader, unreadable
from segflow.storage.json_files import written_whole

FLAT_GEOMETRY = Geometry((999.0, 1.0, 1.0), {"ndim": 2})
LOSSY_ENDINGS = (".jpg", ".jpeg")
TIFF_ENDINGS = (".tif", ".tiff")
COLOURS = (3, 4)


class NaturalImage2DIO(ImageFormat):
    """Arrays (C, 1, height, width); grey pictures have one channel, colour ones three or four."""

    name = "NaturalImage2DIO"
    endings = (".png", ".bmp", ".tif", *LOSSY_ENDINGS)

    def _read(self, file: Path) -> tuple[np.ndarray, Geometry]:
        with _opened(file) as picture:
            pixels = np.asarray(picture)
        if pixels.ndim == 2:
            return pixels[None, None], FLAT_GEOMETRY
        if pixels.shape[-1] not in COLOURS:
            raise SegflowError(f"{file.name} has {pixels.shape[-1]} channels", expected="1, 3 or 4")
        return pixels.transpose(2, 0, 1)[:, None], FLAT_GEOMETRY

    def read_header(self, file: Path) -> ImageHeader:
        """Read what the file says of itself, without its pixels.

        Raises:
            SegflowError: The file is missing, unreadable, or a stack of several pictures.
        """
        with _opened(file) as picture:
            dtype = np.dtype(ImageMode.getmode(picture.mode).typestr).name
            return ImageHeader((1, picture.height, picture.width), len(picture.getbands()), FLAT_GEOMETRY, dtype)

    def _write(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
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
        picture = Image.fromarray(np.ascontiguousarray(values[0]))
        with written_whole(file) as temporary:
            picture.save(temporary)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """The picture of a file; every failure while it is open is told as one of the file."""
    try:
        with Image.open(file) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise SegflowError(
                    f"{file.name} is a stack of {picture.n_frames} pictures",  # type: ignore[attr-defined]
                    expected="one picture",
                    fix="Use the reader Tiff3DIO for 3D TIFF.",
                )
            yield picture
    except SegflowError:
        raise
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise unreadable(file, error) from error
