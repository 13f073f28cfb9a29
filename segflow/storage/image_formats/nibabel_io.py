"""NIfTI by nibabel's rules: the affine as it stands, sheared or not (recipe 1.5)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.image_formats.contract import ImageFormat, ImageHeader, check_affine
from segflow.storage.image_formats.nifti_files import (
    NIFTI_ENDINGS,
    NiftiHeader,
    read_nifti,
    read_nifti_header,
    write_nifti,
)
from segflow.storage.image_formats.placement import affine_of, reorient, restore_orientation
from segflow.storage.image_formats.simpleitk_io import reoriented_header


class NibabelIO(ImageFormat):
    """Array axes z, y, x; a fourth axis is channels. Spacing is the header's zooms."""

    name = "NibabelIO"
    endings: tuple[str, ...] = NIFTI_ENDINGS

    def _read(self, file: Path) -> tuple[np.ndarray, Geometry]:
        nifti, voxels = read_nifti(file)
        header = _image_header(nifti, file)
        return voxels.reshape(header.channels, *header.shape), header.geometry

    def read_header(self, file: Path) -> ImageHeader:
        """Read what the file says of itself, without its voxels.

        Raises:
            SegflowError: The file is missing, unreadable, or 2D.
        """
        return _image_header(read_nifti_header(file), file)

    def _write(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        write_nifti(values, affine_of(geometry), geometry.spacing[::-1], file)


class NibabelIOWithReorient(NibabelIO):
    """As `NibabelIO`, but arrays are turned to RAS, and what is written is turned back."""

    name = "NibabelIOWithReorient"

    def _read(self, file: Path) -> tuple[np.ndarray, Geometry]:
        voxels, geometry = reorient(*super()._read(file))
        return voxels, _spacing_by_affine(geometry)

    def read_header(self, file: Path) -> ImageHeader:
        """As `NibabelIO.read_header`, turned to RAS."""
        header = reoriented_header(super().read_header(file))
        return replace(header, geometry=_spacing_by_affine(header.geometry))

    def _write(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        super()._write(*restore_orientation(values, geometry), file)


def _spacing_by_affine(geometry: Geometry) -> Geometry:
    """nibabel gives a turned image new zooms from its affine, in float32; nnU-Net plans with those."""
    sizes = nibabel.affines.voxel_sizes(np.asarray(geometry.header["reoriented_affine"]))
    x, y, z = (float(np.float32(size)) for size in sizes)
    return Geometry((z, y, x), geometry.header)


def _image_header(nifti: NiftiHeader, file: Path) -> ImageHeader:
    if len(nifti.size) < 3:
        raise SegflowError(
            f"{file.name} is a 2D image", expected="3D or 4D", fix="Use the reader SimpleITKIO for 2D NIfTI."
        )
    check_affine(nifti.affine, file)
    x, y, z = nifti.size[:3]
    spacing = nifti.zooms[::-1]
    geometry = Geometry((spacing[0], spacing[1], spacing[2]), {"ndim": 3, "affine": nifti.affine.tolist()})
    return ImageHeader((z, y, x), int(np.prod(nifti.size[3:], dtype=int)), geometry, nifti.dtype.name)
