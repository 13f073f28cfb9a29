"""Conversion of images in memory to cases, and of label maps to the same kind of image."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from segflow.core.case import Case
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.missing_channels import with_missing
from segflow.storage.image_formats.contract import check_spacing
from segflow.storage.image_formats.nifti_forms import NiftiForms
from segflow.storage.image_formats.placement import FLAT_SPACING_FACTOR, ItkPlacement, restore_orientation

if TYPE_CHECKING:
    import SimpleITK as sitk

UNNAMED = "image"
"""Case id, in messages, of an image without a file."""


@dataclass(frozen=True, slots=True)
class ImageObject:
    """An image in memory as a case, with the inverse conversion.

    Attributes:
        case: The case in the axes of the image, or turned.
        label_map: Converts labels (Z, Y, X) in the case's axes to an object of the input's kind.
    """

    case: Case
    label_map: Callable[[np.ndarray], Any]


Turn = Callable[[np.ndarray, Geometry], tuple[np.ndarray, Geometry]]
"""Turns voxels (C, Z, Y, X) and their geometry, as `reorient` does, or leaves them."""


def image_object(image: Any, spacing: Sequence[float] | None = None, *, turn: Turn | None = None) -> ImageObject:
    """Convert an image to a case.

    Args:
        image: An array (C, Z, Y, X), or (Z, Y, X) with one channel; a SimpleITK or nibabel image; or a list of such
            images on one grid, one per channel, with None for a channel that is missing.
        spacing: mm along z, y, x, for arrays only; images have their own.
        turn: Turns images to the orientation of the training images. Arrays are taken as they are.

    Raises:
        SegflowError: The image is of an unknown kind, has a wrong number of axes, or has no spacing.
    """
    parts = list(image) if isinstance(image, (list, tuple)) else [image]
    if isinstance(image, (list, tuple)) and any(part is None for part in parts):
        return _lacking(parts, spacing, turn)
    if parts and all(_is_of("SimpleITK", "Image", part) for part in parts):
        made = _from_simpleitk(parts)
    elif parts and all(_is_of("nibabel.spatialimages", "SpatialImage", part) for part in parts):
        made = _from_nibabel(parts)
    else:
        return _from_array(image, spacing)
    if turn is None:
        return made
    turned, geometry = turn(made.case.image, made.case.geometry)
    case = replace(made.case, image=np.ascontiguousarray(turned), geometry=geometry)
    return ImageObject(case, lambda labels: made.label_map(restore_orientation(labels, geometry)[0]))


def _lacking(parts: Sequence[Any], spacing: Sequence[float] | None, turn: Turn | None) -> ImageObject:
    """A case of images of one channel each, some of which are None."""
    missing = tuple(number for number, part in enumerate(parts) if part is None)
    present = [part for part in parts if part is not None]
    if not present:
        raise SegflowError("the image has no channel: all are None", found=len(parts), expected="one that is there")
    made = image_object(present, spacing, turn=turn)
    if len(made.case.image) != len(present):
        raise SegflowError(
            "a list with None for a missing channel needs images of one channel each",
            found=f"{len(made.case.image)} channels in {len(present)} images",
        )
    case = replace(made.case, image=with_missing(made.case.image, missing), missing=missing)
    return ImageObject(case, made.label_map)


def _is_of(module: str, name: str, part: Any) -> bool:
    """Whether an object is of a library's class. If the library is not loaded, none is, and it stays so."""
    library = sys.modules.get(module)
    return library is not None and isinstance(part, getattr(library, name))


def _from_array(image: Any, spacing: Sequence[float] | None) -> ImageObject:
    try:
        array = np.asarray(image, dtype=np.float32)
    except (TypeError, ValueError):
        raise SegflowError(
            "cannot take this as an image",
            found=type(image).__name__,
            expected="an array (C, Z, Y, X), a SimpleITK or nibabel image, or a list of images, one per channel",
        ) from None
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4:
        raise SegflowError("the array has a wrong number of axes", found=array.shape, expected="(C, Z, Y, X)")
    mm = () if spacing is None else tuple(float(s) for s in spacing)
    if len(mm) != 3 or not all(np.isfinite(s) and s > 0 for s in mm):
        raise SegflowError("an array needs its spacing", found=spacing, expected="millimetres along z, y, x, above 0")
    return ImageObject(Case(UNNAMED, array, None, Geometry((mm[0], mm[1], mm[2]))), lambda labels: labels)


def _from_simpleitk(images: Sequence[sitk.Image]) -> ImageObject:
    import SimpleITK as sitk

    first = images[0]
    size = first.GetSize()
    ndim = min(len(size), 3)
    placement = ItkPlacement(
        first.GetSpacing()[:ndim],
        first.GetOrigin()[:ndim],
        tuple(np.reshape(first.GetDirection(), (len(size), len(size)))[:ndim, :ndim].ravel().tolist()),
    )
    shape = tuple(reversed(size[:ndim])) if ndim == 3 else (1, *reversed(size[:2]))
    channels = []
    for image in images:
        voxels = sitk.GetArrayFromImage(image)
        if image.GetNumberOfComponentsPerPixel() > 1:
            voxels = np.moveaxis(voxels, -1, 0)
        channels.append(voxels.astype(np.float32, copy=False))
    case = Case(UNNAMED, _stack(channels, shape), None, placement.to_geometry())

    def label_map(labels: np.ndarray) -> sitk.Image:
        result = sitk.GetImageFromArray(np.ascontiguousarray(labels.reshape(labels.shape[-ndim:])))
        result.SetSpacing(placement.spacing)
        result.SetOrigin(placement.origin)
        result.SetDirection(placement.direction)
        return result

    return ImageObject(case, label_map)


def _from_nibabel(images: Sequence[Any]) -> ImageObject:
    import nibabel

    first = images[0]
    ndim = min(len(first.shape), 3)
    if ndim < 2 or first.affine is None:
        raise SegflowError(
            "a nibabel image must have two axes or more, and an affine", found=first.shape, fix="Give it its affine."
        )
    header = first.header
    forms = NiftiForms.of(header) if isinstance(header, nibabel.Nifti1Header) else None
    zooms = [float(forms.in_mm(zoom) if forms else zoom) for zoom in header.get_zooms()[:ndim]]
    check_spacing(zooms, "the image")
    x, y, z = (*zooms, max(zooms) * FLAT_SPACING_FACTOR)[:3]
    affine = forms.affine_in_mm(first.affine) if forms else first.affine
    geometry = Geometry((z, y, x), {"ndim": ndim, "affine": affine.tolist()})
    channels = [np.asarray(image.dataobj, dtype=np.float32).T for image in images]
    case = Case(UNNAMED, _stack(channels, (*reversed((*first.shape, 1)[:3]),)), None, geometry)

    def label_map(labels: np.ndarray) -> Any:
        array = np.ascontiguousarray(labels.reshape(labels.shape[-ndim:]).T)
        result = first.__class__(array, first.affine, header)  # this keeps forms, codes and unit
        result.set_data_dtype(labels.dtype)
        return result

    return ImageObject(case, label_map)


def _stack(channels: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """(C, Z, Y, X) from images that may each hold several channels. Their grids must be equal."""
    try:
        return np.concatenate([voxels.reshape(-1, *shape) for voxels in channels])
    except ValueError:
        raise SegflowError(
            "the channels differ in shape (z, y, x)",
            found=[voxels.shape for voxels in channels],
            fix="Resample all channels to one grid.",
        ) from None
