"""Images through SimpleITK: NIfTI, NRRD, MetaImage, GIPL (recipe 1.5)."""

from __future__ import annotations

import functools
import logging
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.image_formats.contract import (
    RESAVE,
    ImageFormat,
    ImageHeader,
    check_affine,
    check_spacing,
    unreadable,
)
from segflow.storage.image_formats.nifti_files import (
    NiftiHeader,
    is_nifti,
    read_nifti,
    read_nifti_header,
    write_nifti,
)
from segflow.storage.image_formats.placement import (
    ItkPlacement,
    affine_of,
    file_ndim,
    itk_placement,
    reorient,
    restore_orientation,
)
from segflow.storage.json_files import written_whole

log = logging.getLogger(__name__)

GIPL_HEADER_BYTES = 256
META_ENDINGS = (".mha", ".mhd")
META_HEADER_BYTES = 4096


class SimpleITKIO(ImageFormat):
    """Array axes z, y, x; a fourth axis, or a voxel's components, are channels; 2D images get z = 1.

    A NIfTI that ITK refuses, because its direction is not orthonormal or it is NIfTI-2, is read by its affine
    instead, with a warning.
    """

    name = "SimpleITKIO"
    endings: tuple[str, ...] = (".nii.gz", ".nrrd", ".mha", ".gipl")

    def _read(self, file: Path) -> tuple[np.ndarray, Geometry]:
        if is_nifti(file):
            nifti, voxels = read_nifti(file)
            header = _itk_header(file, nifti)
            return voxels.reshape(header.channels, *header.shape), header.geometry
        header = _itk_header(file)
        try:
            image = sitk.ReadImage(str(file))
        except RuntimeError as error:
            raise unreadable(file, _reason(error)) from error
        voxels = sitk.GetArrayFromImage(image)
        if image.GetNumberOfComponentsPerPixel() > 1:
            voxels = np.moveaxis(voxels, -1, 0)
        return voxels.reshape(header.channels, *header.shape), header.geometry

    def read_header(self, file: Path) -> ImageHeader:
        """Read what the file says of itself, without its voxels.

        Raises:
            SegflowError: The file is missing, unreadable, or has a spacing that is no distance.
        """
        # read_nifti_header refuses what ITK repairs in silence
        return _itk_header(file, read_nifti_header(file) if is_nifti(file) else None)

    def _write(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        placement = itk_placement(geometry)
        array = values[0] if file_ndim(geometry) == 2 else values
        if is_nifti(file):
            write_nifti(array, affine_of(geometry), placement.spacing, file)
            return
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing(placement.spacing)
        image.SetOrigin(placement.origin)
        image.SetDirection(placement.direction)
        with written_whole(file) as temporary:
            try:
                sitk.WriteImage(image, str(temporary), True)
                written = sitk.GetArrayFromImage(sitk.ReadImage(str(temporary)))
            except RuntimeError as error:
                raise SegflowError(f"cannot write {file}: {_reason(error)}", fix="Check space and ending.") from error
            if not np.array_equal(written, array):  # ITK does not notice a full disk
                raise SegflowError(f"cannot write {file}: the disk kept only a part", fix="Check space.")


class SimpleITKIOWithReorient(SimpleITKIO):
    """As `SimpleITKIO`, but arrays are turned to RAS, and what is written is turned back."""

    name = "SimpleITKIOWithReorient"
    endings = ()  # never chosen by itself, as in nnU-Net

    def _read(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return reorient(*super()._read(file))

    def read_header(self, file: Path) -> ImageHeader:
        """As `SimpleITKIO.read_header`, turned to RAS."""
        return reoriented_header(super().read_header(file))

    def _write(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        super()._write(*restore_orientation(values, geometry), file)


def reoriented_header(header: ImageHeader) -> ImageHeader:
    """A header as `reorient` would leave it."""
    empty = np.broadcast_to(np.zeros((), dtype=bool), (1, *header.shape))
    turned, geometry = reorient(empty, header.geometry)
    return ImageHeader(_zyx(turned.shape[:0:-1]), header.channels, geometry, header.dtype)


def _itk_header(file: Path, nifti: NiftiHeader | None = None) -> ImageHeader:
    """What ITK makes of a file's header; ``nifti`` is the same file's, read before, if it is one."""
    if file.suffix.lower() in META_ENDINGS:
        _check_meta_spacing(file)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    if nifti is not None:
        reader.SetImageIO("NiftiImageIO")  # else every format is asked in turn
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if nifti is not None and len(nifti.size) > 2:  # sheared, or NIfTI-2
            log.warning("%s: %s It is read by its affine, as it stands.", file, _reason(error))
            check_affine(nifti.affine, file)
            return _header_by_affine(nifti.size, nifti.zooms, nifti.affine, nifti.dtype.name)
        raise unreadable(file, _reason(error)) from error
    size = reader.GetSize()
    ndim = min(len(size), 3)
    placement = ItkPlacement(
        reader.GetSpacing()[:ndim],
        reader.GetOrigin()[:ndim],
        tuple(np.reshape(reader.GetDirection(), (len(size), len(size)))[:ndim, :ndim].ravel().tolist()),
    )
    check_spacing(placement.spacing, file)
    check_affine(placement.to_affine(), file)
    channels = int(np.prod(size[3:], dtype=int)) * reader.GetNumberOfComponents()
    dtype = _dtype(reader.GetPixelID())
    if file.suffix.lower() == ".gipl":
        _check_gipl_size(file, int(np.prod(size)) * dtype.itemsize)
    return ImageHeader(_zyx(size[:ndim]), channels, placement.to_geometry(), dtype.name)


@functools.cache
def _dtype(pixel_id: int) -> np.dtype:
    """numpy's type for one of ITK's numbers of pixel types; found by making an image, which takes a moment."""
    return sitk.GetArrayFromImage(sitk.Image([1, 1], pixel_id)).dtype


def _header_by_affine(size: tuple[int, ...], zooms: tuple[float, ...], affine: np.ndarray, dtype: str) -> ImageHeader:
    zyx = (*zooms, *(1.0,) * (3 - len(zooms)))[::-1]
    geometry = Geometry((zyx[0], zyx[1], zyx[2]), {"ndim": 3, "affine": affine.tolist()})
    return ImageHeader(_zyx(size[:3]), int(np.prod(size[3:], dtype=int)), geometry, dtype)


def _zyx(size_xyz: tuple[int, ...]) -> tuple[int, int, int]:
    padded = (*(int(n) for n in size_xyz), 1)[:3]
    return padded[2], padded[1], padded[0]


def _reason(error: RuntimeError) -> str:
    """The last line of an ITK report, which is the one that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _check_meta_spacing(file: Path) -> None:
    """ITK reads a negative spacing as a flipped axis and reports a zero as something else."""
    try:
        with file.open("rb") as stream:
            text = stream.read(META_HEADER_BYTES)
    except OSError as error:
        raise unreadable(file, error) from error
    found = re.search(rb"^ElementSpacing\s*=\s*([^\r\n]+)", text, re.MULTILINE)
    if found:
        check_spacing([float(part) for part in found.group(1).split()], file)


def _check_gipl_size(file: Path, voxel_bytes: int) -> None:
    """ITK fills a truncated GIPL with zeros and says nothing."""
    found, expected = file.stat().st_size, GIPL_HEADER_BYTES + voxel_bytes
    if found < expected:
        raise SegflowError(
            f"cannot read {file}: it is truncated",
            found=f"{found} bytes",
            expected=f"{expected} bytes",
            fix=RESAVE,
        )
