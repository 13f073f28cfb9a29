"""Pixels of pictures: palettes, transparency, and more grey levels than Pillow keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segflow.core.errors import SegflowError
from segflow.storage.image_formats.contract import unreadable
from segflow.storage.image_formats.placement import LAST_UNSWAPPED

if TYPE_CHECKING:
    from PIL import Image

PALETTE_MODES = ("P", "PA")
GREY_AND_ALPHA = "LA"
BITS_PER_SAMPLE, PLANAR_CONFIGURATION = 258, 284
"""TIFF's tags."""
ORIENTATION = 274
"""EXIF's tag, and TIFF's: how a viewer turns or mirrors the stored pixels. 1 leaves them as they are."""
_UNTURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown[::-1, ::-1].swapaxes(0, 1),
    8: lambda shown: np.rot90(shown, -1),
}
"""Orientation → how the pixels (Y, X, …) that a viewer shows become the stored ones."""
LEVELS = {"L;2": 3, "L;4": 15}
"""Highest sample of grey pictures with fewer than 8 bits, which Pillow stretches to 255."""


def colours(picture: Image.Image, file: Path) -> np.ndarray:
    """A picture's colours, as a person sees them.

    Args:
        picture: Opened by Pillow.
        file: Its file.

    Returns:
        (Y, X) if it is grey, else (Y, X, C) with 3 channels, or 4 if parts of it are transparent.

    Raises:
        SegflowError: It is grey and transparent, or of a format that cannot be read.
    """
    if picture.mode in PALETTE_MODES:
        mode = _mode_of_palette(picture)
        if mode != "RGBA":
            picture.info.pop("transparency", None)  # no pixel uses it
        return _stored(picture, mode)
    pixels = _deep(picture, file) if _is_deep(picture) else _stored(picture)
    return _without_alpha(pixels, file) if picture.mode == GREY_AND_ALPHA else pixels


def label_values(picture: Image.Image, file: Path) -> np.ndarray:
    """The stored numbers of a picture, without its palette: (Y, X), or (Y, X, C) if it stores colours.

    Raises:
        SegflowError: It is of a format that cannot be read.
    """
    highest = LEVELS.get(_raw_mode(picture))  # Pillow forgets it when it reads the pixels
    pixels = _deep(picture, file) if _is_deep(picture) else _stored(picture)
    if picture.mode in ("PA", GREY_AND_ALPHA):
        return pixels[..., 0]
    return pixels // (255 // highest) if highest else pixels


def channels_and_type(picture: Image.Image) -> tuple[int, str]:
    """Number of channels that `colours` will return, and numpy's name of their type, without reading the pixels."""
    from PIL import ImageMode

    if picture.mode in PALETTE_MODES:
        return len(_mode_of_palette(picture)), "uint8"
    dtype = "uint16" if _is_deep(picture) else np.dtype(ImageMode.getmode(picture.mode).typestr).name
    return 1 if picture.mode == GREY_AND_ALPHA else len(picture.getbands()), dtype


def orientation_of(picture: Image.Image) -> int:
    """How a viewer turns the stored pixels: 1 (not at all) to 8, by EXIF or TIFF. Ask before the pixels are read."""
    try:
        tags = getattr(picture, "tag_v2", None)
        if tags is None:
            tags = picture.getexif() if "exif" in picture.info else {}
        found = int(tags.get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data raise anything, and the pixels are sound without them
        return 1
    return found if found in _UNTURNED else 1


def stored_size(picture: Image.Image) -> tuple[int, int]:
    """Height and width of the stored pixels. Ask before the pixels are read."""
    is_swapped = _is_turned_by_pillow(picture) and orientation_of(picture) > LAST_UNSWAPPED
    return (picture.width, picture.height) if is_swapped else (picture.height, picture.width)


def _is_turned_by_pillow(picture: Image.Image) -> bool:
    """Whether Pillow turns the pixels as it reads them, as it does for TIFF alone."""
    return picture.format == "TIFF"


def _stored(picture: Image.Image, mode: str | None = None) -> np.ndarray:
    """The pixels as they are stored, (Y, X) or (Y, X, C), and as nnU-Net reads them."""
    turn = orientation_of(picture) if _is_turned_by_pillow(picture) else 1
    if turn > LAST_UNSWAPPED:
        # Pillow maps a file with a name into memory, and cuts its rows at the swapped width.
        picture.filename = ""  # type: ignore[attr-defined]
    pixels = np.asarray(picture if mode is None else picture.convert(mode))
    return _UNTURNED[turn](pixels) if turn in _UNTURNED else pixels


def is_planar(picture: Image.Image) -> bool:
    """Whether the file stores colour channels one after the other, as it would store slices."""
    return getattr(picture, "tag_v2", {}).get(PLANAR_CONFIGURATION) == 2


def _mode_of_palette(picture: Image.Image) -> str:
    """``L`` for a palette of greys, ``RGB`` for one of colours, ``RGBA`` if some are transparent."""
    transparent = picture.info.get("transparency")
    if picture.mode == "PA" or (
        min(transparent, default=255) < 255 if isinstance(transparent, bytes) else transparent is not None
    ):
        return "RGBA"
    palette = np.reshape(picture.getpalette("RGB") or [0, 0, 0], (-1, 3))
    return "L" if (palette == palette[:, :1]).all() else "RGB"


def _raw_mode(picture: Image.Image) -> str:
    """Pillow's name for the way samples are stored."""
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments if isinstance(arguments, str) or not arguments else arguments[0])


def _is_deep(picture: Image.Image) -> bool:
    """Whether the file holds colours with more than 8 bits; Pillow keeps only 8."""
    if len(picture.getbands()) == 1:
        return False  # Pillow keeps all bits of grey
    tags = getattr(picture, "tag_v2", {})
    return max(tags.get(BITS_PER_SAMPLE, (8,))) > 8 or (picture.format == "PNG" and ";16" in _raw_mode(picture))


def _deep(picture: Image.Image, file: Path) -> np.ndarray:
    """Colours (Y, X, C) with all their bits."""
    if picture.format == "PNG" and not _raw_mode(picture).startswith(GREY_AND_ALPHA):  # ITK cannot read grey with alpha
        import SimpleITK as sitk

        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(file), imageIO="PNGImageIO"))
    elif picture.format == "TIFF":
        pixels = _deep_tiff(file)
    else:
        pixels = np.empty(0)
    if pixels.shape != (*stored_size(picture), len(picture.getbands())):
        raise SegflowError(
            f"cannot read {file}: more than 8 bits for each channel are not read in this form",
            found=f"{picture.format}, {_raw_mode(picture)}",
            fix="Save it with 8 bits, or as grey, RGB or RGBA PNG with 16.",
        )
    return pixels


def _deep_tiff(file: Path) -> np.ndarray:
    import tifffile

    try:
        with tifffile.TiffFile(file, _multifile=False) as tiff:
            series = tiff.series[0]
            pixels = np.asarray(series.asarray())
            return np.moveaxis(pixels, 0, -1) if series.axes.startswith("S") else pixels
    except Exception as error:  # tifffile passes on any error that a damaged file causes
        raise unreadable(file, error) from error


def _without_alpha(pixels: np.ndarray, file: Path) -> np.ndarray:
    alpha = pixels[..., 1]
    if (alpha != np.iinfo(pixels.dtype).max).any():
        raise SegflowError(
            f"{file.name} is a grey picture with transparent parts",
            found=f"{int((alpha != np.iinfo(pixels.dtype).max).sum())} pixels that are not opaque",
            expected="grey, or colours",
            fix="Save it without its alpha channel.",
        )
    return pixels[..., 0]
