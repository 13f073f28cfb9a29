"""Images through SimpleITK: NIfTI, NRRD, MetaImage, GIPL (recipe 1.5)."""

from __future__ import annotations

import functools
import logging
import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.voxels import VoxelSink
from segflow.storage.image_formats.contract import (
    ImageFormat,
    ImageHeader,
    OpenFile,
    check_affine,
    check_spacing,
    unreadable,
)
from segflow.storage.image_formats.header_checks.gipl import check_gipl
from segflow.storage.image_formats.header_checks.metaimage import check_metaimage
from segflow.storage.image_formats.header_checks.nrrd import check_nrrd
from segflow.storage.image_formats.itk_rules import certain_placement
from segflow.storage.image_formats.layers import one_layer
from segflow.storage.image_formats.nifti_boxes import NiftiBoxes, nifti_sink
from segflow.storage.image_formats.nifti_files import (
    NiftiHeader,
    header_by_affine,
    is_nifti,
    read_nifti,
    read_nifti_as_float,
    read_nifti_header,
    read_nifti_labels,
    write_nifti,
)
from segflow.storage.image_formats.nifti_forms import KEY, forms_of
from segflow.storage.image_formats.placement import (
    LEFT_HANDED_SPACE,
    ItkPlacement,
    affine_of,
    file_ndim,
    itk_placement,
    reorient,
    restore_orientation,
)
from segflow.storage.image_formats.read_apart import reads_apart, reason_of
from segflow.storage.image_formats.turned import TurnedFile, turned_sink
from segflow.storage.json_files import written_whole
from segflow.storage.regular_files import check_regular, open_regular

if TYPE_CHECKING:
    import SimpleITK as sitk

log = logging.getLogger(__name__)

META, NRRD = (".mha", ".mhd"), (".nrrd", ".nhdr")
CHECKS = {**dict.fromkeys(META, check_metaimage), **dict.fromkeys(NRRD, check_nrrd), ".gipl": check_gipl}
IMAGE_IO = {**dict.fromkeys(META, "MetaImageIO"), **dict.fromkeys(NRRD, "NrrdImageIO"), ".gipl": "GiplImageIO"}
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


class SimpleITKIO(ImageFormat):
    """Array axes z, y, x. A fourth axis, or a voxel's components, are channels. 2D images get z = 1.

    ITK refuses NIfTI-2, and directions that are not orthonormal. Such a NIfTI is read by its affine, with a warning.
    """

    name = "SimpleITKIO"
    endings: tuple[str, ...] = (".nii.gz", ".nrrd", ".mha", ".gipl")

    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return _arranged(file, *read_nifti(file)) if is_nifti(file) else _read_by_itk(file)

    def read_float_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        if is_nifti(file):
            return _arranged(file, *read_nifti_as_float(file))
        voxels, geometry = _read_by_itk(file)
        return voxels.astype(np.float32), geometry

    def read_label_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        if is_nifti(file):
            return _arranged(file, *read_nifti_labels(file))
        return _read_labels_by_itk(file)

    def read_header(self, file: Path) -> ImageHeader:
        """Read the header, without the voxels.

        Raises:
            SegflowError: The file is missing, unreadable, or has an impossible spacing.
        """
        # read_nifti_header refuses headers that ITK silently repairs
        return _itk_header(file, read_nifti_header(file)) if is_nifti(file) else _header_by_itk(file)

    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        array = values[0] if file_ndim(geometry) == 2 else values
        if is_nifti(file):
            spacing = itk_placement(geometry).spacing
            write_nifti(array, affine_of(geometry), spacing, file, forms_of(geometry))
            return
        import SimpleITK as sitk

        placement = itk_placement(geometry)
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        image.SetSpacing(placement.spacing)
        image.SetOrigin(placement.origin)
        image.SetDirection(placement.direction)
        with written_whole(file, needed=array.nbytes) as temporary:
            try:
                sitk.WriteImage(image, str(temporary), True)
                written = sitk.GetArrayFromImage(sitk.ReadImage(str(temporary)))
            except RuntimeError as error:
                raise SegflowError(f"cannot write {file}: {reason_of(error)}", fix="Check space and ending.") from error
            if not np.array_equal(written, array):  # ITK does not notice a full disk
                raise SegflowError(f"cannot write {file}: the disk stored only a part", fix="Check space.")

    def open_file(self, file: Path, *, labels: bool = False) -> OpenFile | None:
        if not is_nifti(file):
            return None
        return NiftiBoxes(file, lambda nifti: _itk_header(file, nifti), labels=labels)

    def create_file(
        self, file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry
    ) -> AbstractContextManager[VoxelSink] | None:
        return nifti_sink(file, shape, dtype, geometry, itk_placement(geometry).spacing) if is_nifti(file) else None


class SimpleITKIOWithReorient(SimpleITKIO):
    """Like `SimpleITKIO`, but arrays are turned to RAS when read and turned back when written."""

    name = "SimpleITKIOWithReorient"
    endings = ()  # chosen only by name, as in nnU-Net

    def read_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return reorient(*super().read_file(file))

    def read_float_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return reorient(*super().read_float_file(file))

    def read_label_file(self, file: Path) -> tuple[np.ndarray, Geometry]:
        return reorient(*super().read_label_file(file))

    def read_header(self, file: Path) -> ImageHeader:
        """Like `SimpleITKIO.read_header`, but turned to RAS."""
        return reoriented_header(super().read_header(file))

    def write_file(self, values: np.ndarray, geometry: Geometry, file: Path) -> None:
        super().write_file(*restore_orientation(values, geometry), file)

    def open_file(self, file: Path, *, labels: bool = False) -> OpenFile | None:
        opened = super().open_file(file, labels=labels)
        return None if opened is None else TurnedFile(opened, reorient)

    def create_file(
        self, file: Path, shape: tuple[int, int, int], dtype: np.dtype, geometry: Geometry
    ) -> AbstractContextManager[VoxelSink] | None:
        return turned_sink(super().create_file, file, shape, dtype, geometry)


def reoriented_header(header: ImageHeader) -> ImageHeader:
    """A header as `reorient` would leave it."""
    empty = np.broadcast_to(np.zeros((), dtype=bool), (1, *header.shape))
    turned, geometry = reorient(empty, header.geometry)
    return ImageHeader(_zyx(turned.shape[:0:-1]), header.channels, geometry, header.dtype)


def _arranged(file: Path, nifti: NiftiHeader, voxels: np.ndarray) -> tuple[np.ndarray, Geometry]:
    header = _itk_header(file, nifti)
    return voxels.reshape(header.channels, *header.shape), header.geometry


def _check_itk(file: Path) -> int:
    """Check a file that is not NIfTI before ITK reads it. Returns the bytes of its voxels, or of the file."""
    check = CHECKS.get(file.suffix.lower())
    if check is not None:
        return check(file)
    with open_regular(file) as stream:
        if stream.read(len(HDF5_MAGIC)) == HDF5_MAGIC:
            raise SegflowError(
                f"cannot read {file}: HDF5 files may name other files, and are not read",
                fix="Convert it to .nii.gz, .nrrd or .mha.",
            )
    return check_regular(file)


@reads_apart(_check_itk)
def _read_by_itk(file: Path) -> tuple[np.ndarray, Geometry]:
    import SimpleITK as sitk

    header = _itk_header(file)
    try:
        image = sitk.ReadImage(str(file), imageIO=IMAGE_IO.get(file.suffix.lower(), ""))
    except RuntimeError as error:
        raise unreadable(file, reason_of(error)) from error
    voxels = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = np.moveaxis(voxels, -1, 0)
    return voxels.reshape(header.channels, *header.shape), header.geometry


@reads_apart(_check_itk)
def _read_labels_by_itk(file: Path) -> tuple[np.ndarray, Geometry]:
    voxels, geometry = _read_by_itk(file)
    return one_layer(voxels, file) if len(voxels) > 1 and _has_layers(file) else voxels, geometry


@reads_apart(_check_itk)
def _header_by_itk(file: Path) -> ImageHeader:
    return _itk_header(file)


def _has_layers(file: Path) -> bool:
    """Whether the values of a voxel are layers of a segmentation, not a colour or a vector."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return _noted(reader, "NRRD_kinds[pixel]") == "list"


def _noted(reader: sitk.ImageFileReader, key: str) -> str:
    return str(reader.GetMetaData(key)) if reader.HasMetaDataKey(key) else ""


def _itk_header(file: Path, nifti: NiftiHeader | None = None) -> ImageHeader:
    """A file's header as ITK reads it. ``nifti`` is the header of the same file, read before, if it is a NIfTI."""
    if nifti is not None and not nifti.is_scaled and (certain := certain_placement(nifti)) is not None:
        return _header(certain, nifti)
    import SimpleITK as sitk  # it takes longer to load than most files that need it

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    # Otherwise ITK asks every format in turn whether it can read the file.
    reader.SetImageIO("NiftiImageIO" if nifti is not None else IMAGE_IO.get(file.suffix.lower(), ""))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if nifti is not None:  # sheared, or NIfTI-2
            log.warning("%s: %s It is read by its affine, as it is.", file, reason_of(error))
            return header_by_affine(nifti, file)
        raise unreadable(file, reason_of(error)) from error
    size = reader.GetSize()
    ndim = min(len(size), 3)
    placement = ItkPlacement(
        reader.GetSpacing()[:ndim],
        reader.GetOrigin()[:ndim],
        tuple(np.reshape(reader.GetDirection(), (len(size), len(size)))[:ndim, :ndim].ravel().tolist()),
    )
    if nifti is not None and not placement.is_orthonormal:  # a plane that is not axial
        return header_by_affine(nifti, file)
    check_spacing(placement.spacing, file)
    check_affine(placement.to_affine(), file)
    channels = math.prod(size[3:]) * reader.GetNumberOfComponents()
    dtype = _dtype(reader.GetPixelID())
    geometry = placement.to_geometry()
    if nifti is not None:
        geometry = Geometry(geometry.spacing, {**geometry.header, KEY: nifti.forms.to_json()})
    elif _noted(reader, "NRRD_space").startswith(LEFT_HANDED_SPACE):  # ITK turns all others to LPS+
        geometry = Geometry(geometry.spacing, {**geometry.header, "space": LEFT_HANDED_SPACE})
    return ImageHeader(_zyx(size[:ndim]), channels, geometry, dtype.name)


def _header(placement: ItkPlacement, nifti: NiftiHeader) -> ImageHeader:
    """The header of a NIfTI whose placement is known without ITK."""
    geometry = placement.to_geometry()
    geometry = Geometry(geometry.spacing, {**geometry.header, KEY: nifti.forms.to_json()})
    return ImageHeader(_zyx(nifti.size[:3]), math.prod(nifti.size[3:]), geometry, nifti.dtype.name)


@functools.cache
def _dtype(pixel_id: int) -> np.dtype:
    """numpy's type for one of ITK's pixel types. It is found by creating an image, which takes a moment."""
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.Image([1, 1], pixel_id)).dtype


def _zyx(size_xyz: tuple[int, ...]) -> tuple[int, int, int]:
    padded = (*(int(n) for n in size_xyz), 1)[:3]
    return padded[2], padded[1], padded[0]
