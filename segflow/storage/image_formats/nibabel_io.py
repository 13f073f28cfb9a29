"""NIfTI by nibabel's rules: the affine is taken as it is, sheared or not (recipe 1.5)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from segflow.core.geometry import Geometry
from segflow.core.voxels import VoxelSink
from segflow.storage.image_formats.contract import ImageFormat, ImageHeader, OpenFile
from segflow.storage.image_formats.nifti_boxes import NiftiBoxes, nifti_sink
from segflow.storage.image_formats.nifti_files import (
    NIFTI_ENDINGS,
    NiftiHeader,
    header_by_affine,
    read_nifti,
    read_nifti_as_float,
    read_nifti_header,
    read_nifti_labels,
    write_nifti,
)
from segflow.storage.image_formats.nifti_forms import forms_of
from segflow.storage.image_formats.placement import affine_of, file_ndim, reorient, restore_orientation
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO, SimpleITKIOWithReorient, reoriented_header
from segflow.storage.image_formats.turned import TurnedFile, turned_sink


class NibabelIO(ImageFormat):
    """Array axes z, y, x. A fourth axis holds channels; 2D images get z = 1. Spacing is the header's zooms, in mm."""

    name = "NibabelIO"
    endings: tuple[str, ...] = NIFTI_ENDINGS
    other_labels: ImageFormat | None = SimpleITKIO()

    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _arranged(file, *read_nifti(file))

    def read_float_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _arranged(file, *read_nifti_as_float(file))

    def read_label_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _arranged(file, *read_nifti_labels(file))

    def read_header(self, file: Path) -> ImageHeader:
        """Read the header, without the voxels.

        Raises:
            SegflowError: The file is missing or unreadable.
        """
        return header_by_affine(read_nifti_header(file), file)

    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        ndim = file_ndim(geometry)
        array = values[0] if ndim == 2 else values
        write_nifti(array, affine_of(geometry), geometry.spacing[: -ndim - 1 : -1], file, forms_of(geometry))

    def open_file(self, file: Path, *, labels: bool = False) -> OpenFile | None:
        return NiftiBoxes(file, lambda nifti: header_by_affine(nifti, file), labels=labels)

    def create_file(
        self, file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry
    ) -> AbstractContextManager[VoxelSink] | None:
        ndim = file_ndim(geometry)
        return nifti_sink(file, shape, dtype, geometry, geometry.spacing[: -ndim - 1 : -1])


class NibabelIOWithReorient(NibabelIO):
    """Like `NibabelIO`, but arrays are turned to RAS when read and turned back when written."""

    name = "NibabelIOWithReorient"
    other_labels = SimpleITKIOWithReorient()

    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _turned(*super().read_file(file))

    def read_float_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _turned(*super().read_float_file(file))

    def read_label_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _turned(*super().read_label_file(file))

    def read_header(self, file: Path) -> ImageHeader:
        """Like `NibabelIO.read_header`, but turned to RAS."""
        header = reoriented_header(super().read_header(file))
        return replace(header, geometry=_spacing_by_affine(header.geometry))

    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        super().write_file(*restore_orientation(values, geometry), file)

    def open_file(self, file: Path, *, labels: bool = False) -> OpenFile | None:
        opened = super().open_file(file, labels=labels)
        return None if opened is None else TurnedFile(opened, _turned)

    def create_file(
        self, file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry
    ) -> AbstractContextManager[VoxelSink] | None:
        return turned_sink(super().create_file, file, shape, dtype, geometry)


def _arranged(file: Path, nifti: NiftiHeader, voxels: np.ndarray) -> tuple[np.ndarray, Geometry]:
    header = header_by_affine(nifti, file)
    return voxels.reshape(header.channels, *header.shape), header.geometry


def _turned(voxels: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    turned, geometry = reorient(voxels, geometry)
    return turned, _spacing_by_affine(geometry)


def _spacing_by_affine(geometry: Geometry) -> Geometry:
    """nibabel gives a turned image new zooms from its affine, in float32; nnU-Net plans with those."""
    if file_ndim(geometry) == 2:
        return geometry
    import nibabel

    sizes = nibabel.affines.voxel_sizes(np.asarray(geometry.header["reoriented_affine"]))
    x, y, z = (float(np.float32(size)) for size in sizes)
    return Geometry((z, y, x), geometry.header)
