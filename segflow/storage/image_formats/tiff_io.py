"""3D TIFF, with its spacing in a JSON file beside it (recipe 1.5)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.channel_names import case_and_channel
from segflow.storage.image_formats.contract import ImageFormat, ImageHeader, check_spacing, unreadable
from segflow.storage.image_formats.header_checks.tiff import check_tiff
from segflow.storage.image_formats.read_apart import reads_apart
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO
from segflow.storage.json_files import read_json, write_json, written_whole

if TYPE_CHECKING:
    import tifffile

log = logging.getLogger(__name__)


class Tiff3DIO(ImageFormat):
    """Arrays as stored, (Z, Y, X).

    Spacing is read from ``<case>.json``, key ``spacing``, in array order z, y, x. For an image, ``<case>`` is its name
    without the channel suffix. Without that file the spacing is 1 mm, with a warning.
    """

    name = "Tiff3DIO"
    endings = (".tif", ".tiff")
    other_labels = SimpleITKIO()

    @reads_apart(check_tiff)
    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _voxels(file)[None], _geometry(_image_side_car(file), file)

    @reads_apart(check_tiff)
    def read_label_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _voxels(file)[None], _geometry(file.with_suffix(".json"), file)

    @reads_apart(check_tiff)
    def read_header(self, file: Path) -> ImageHeader:
        """Read the header, without the voxels.

        Raises:
            SegflowError: The file is missing, unreadable, or not a stack of grey pictures.
        """
        try:
            with opened(file) as tiff:
                shape = _stack_shape(tiff, file)
                dtype = str(tiff.series[0].dtype)
        except SegflowError:
            raise
        except Exception as error:  # as above
            raise unreadable(file, error) from error
        return ImageHeader(shape, 1, _geometry(_image_side_car(file), file), dtype)

    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        import tifffile

        with written_whole(file) as temporary:
            tifffile.imwrite(temporary, values, compression="zlib", photometric="minisblack")
            # before the stack gets its name, so that whoever sees the stack finds its spacing
            write_json(file.with_suffix(".json"), {"spacing": list(geometry.spacing)})


def side_car(file: Path) -> Path | None:
    """The file for a label map's spacing, if its format has one; it need not exist."""
    return file.with_suffix(".json") if file.name.lower().endswith(Tiff3DIO.endings) else None


def opened(file: Path) -> tifffile.TiffFile:
    """Open a TIFF, without further files that its OME-XML may name."""
    import tifffile

    return tifffile.TiffFile(file, _multifile=False)


def _stack_shape(tiff: tifffile.TiffFile, file: Path) -> tuple[int, int, int]:
    """Voxels along z, y, x. tifffile may store three or four slices as planes of a colour picture (``SYX``); they are
    read as slices. Interleaved colours are a photograph.
    """
    series = tiff.series[0]
    shape = tuple(int(n) for n in series.shape)
    if len(shape) != 3 or "S" in series.axes[1:]:  # S: colour samples
        raise SegflowError(
            f"{file.name} is not a stack of grey pictures", found=f"axes {series.axes} {shape}", expected="z, y, x"
        )
    return shape[0], shape[1], shape[2]


def _voxels(file: Path) -> np.ndarray:
    try:
        with opened(file) as tiff:
            _stack_shape(tiff, file)
            return np.asarray(tiff.asarray())
    except SegflowError:
        raise
    except Exception as error:  # tifffile passes on any error that a damaged file causes
        raise unreadable(file, error) from error


def side_cars_of_image(file: Path) -> tuple[Path, ...]:
    """Files that may hold an image's spacing, the one for all channels first; none for other formats."""
    if not file.name.lower().endswith(Tiff3DIO.endings):
        return ()
    files = (file.with_name(f"{case_and_channel(file.stem).case_id}.json"), file.with_suffix(".json"))
    return tuple(dict.fromkeys(files))


def _image_side_car(file: Path) -> Path:
    shared, *others = side_cars_of_image(file)
    own = others[0] if others else shared
    return own if own.is_file() and not shared.is_file() else shared


def has_spacing_beside(file: Path) -> bool:
    """Whether a file with a stack's spacing lies beside a file, which is then not a photograph."""
    return _image_side_car(file).is_file()


def _geometry(side_car: Path, file: Path) -> Geometry:
    if not side_car.is_file():
        log.warning("no %s beside %s: spacing 1, 1, 1 mm is assumed", side_car.name, file)
        return Geometry((1.0, 1.0, 1.0), {"ndim": 3})
    value = read_json(side_car)
    spacing = value.get("spacing") if isinstance(value, dict) else None
    if not isinstance(spacing, list) or len(spacing) != 3 or not all(isinstance(s, (int, float)) for s in spacing):
        raise SegflowError(f"{side_car} gives no spacing", found=repr(value)[:80], expected='{"spacing": [z, y, x]}')
    check_spacing(spacing, side_car)
    return Geometry((float(spacing[0]), float(spacing[1]), float(spacing[2])), {"ndim": 3})
