"""3D TIFF, whose spacing stands in a JSON file beside it (recipe 1.5)."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import tifffile

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.image_formats.contract import ImageFormat, ImageHeader, check_spacing, unreadable
from segflow.storage.json_files import read_json, write_json, written_whole

log = logging.getLogger(__name__)

CHANNEL_SUFFIX = re.compile(r"_\d{4}$")


class Tiff3DIO(ImageFormat):
    """Arrays as stored, (Z, Y, X).

    Spacing is read from ``<case>.json``, key ``spacing``, in array order z, y, x; for an image the channel suffix is
    dropped from the name. Without that file the spacing is 1 mm, with a warning.
    """

    name = "Tiff3DIO"
    endings = (".tif", ".tiff")

    def _read(self, file: Path) -> tuple[np.ndarray, Geometry]:
        try:
            with tifffile.TiffFile(file) as tiff:
                _stack_shape(tiff, file)
                voxels = tiff.asarray()
        except SegflowError:
            raise
        except Exception as error:  # tifffile lets out whatever a damaged file provokes
            raise unreadable(file, error) from error
        return voxels[None], Geometry(_spacing(file), {"ndim": 3})

    def read_header(self, file: Path) -> ImageHeader:
        """Read what the file says of itself, without its voxels.

        Raises:
            SegflowError: The file is missing, unreadable, or not a stack of grey pictures.
        """
        try:
            with tifffile.TiffFile(file) as tiff:
                shape = _stack_shape(tiff, file)
                dtype = str(tiff.series[0].dtype)
        except SegflowError:
            raise
        except Exception as error:  # as above
            raise unreadable(file, error) from error
        return ImageHeader(shape, 1, Geometry(_spacing(file), {"ndim": 3}), dtype)

    def _write(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        with written_whole(file) as temporary:
            tifffile.imwrite(temporary, values, compression="zlib", photometric="minisblack")
        write_json(file.with_suffix(".json"), {"spacing": list(geometry.spacing)})


def _stack_shape(tiff: tifffile.TiffFile, file: Path) -> tuple[int, int, int]:
    series = tiff.series[0]
    shape = tuple(int(n) for n in series.shape)
    if len(shape) != 3 or "S" in series.axes:  # S: colour samples, so a photograph and not a volume
        raise SegflowError(
            f"{file.name} is not a stack of grey pictures", found=f"axes {series.axes} {shape}", expected="z, y, x"
        )
    return shape[0], shape[1], shape[2]


def _spacing(file: Path) -> tuple[float, float, float]:
    own = file.with_suffix(".json")
    shared = file.with_name(CHANNEL_SUFFIX.sub("", file.stem) + ".json")
    side_car = shared if shared.is_file() else own
    if not side_car.is_file():
        log.warning("no %s beside %s: spacing 1, 1, 1 mm is assumed", shared.name, file)
        return (1.0, 1.0, 1.0)
    value = read_json(side_car)
    spacing = value.get("spacing") if isinstance(value, dict) else None
    if not isinstance(spacing, list) or len(spacing) != 3 or not all(isinstance(s, (int, float)) for s in spacing):
        raise SegflowError(f"{side_car} gives no spacing", found=repr(value)[:80], expected='{"spacing": [z, y, x]}')
    check_spacing(spacing, side_car)
    return (float(spacing[0]), float(spacing[1]), float(spacing[2]))
