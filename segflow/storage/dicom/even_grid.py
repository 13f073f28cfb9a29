"""Slices of uneven distances or of a tilted gantry, brought to an even grid, and volumes brought to another grid."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.execution.machine import check_room
from segflow.storage.dicom.series import DicomSeries
from segflow.storage.dicom.series_checks import SIDEWAYS, displacements, is_even, same_places
from segflow.storage.image_formats.contract import mm
from segflow.storage.image_formats.placement import ItkPlacement, affine_of, itk_placement, same_placement

ON_GRID = 1e-2
"""Part of a voxel by which grids may differ that count as one."""
VALUE_BYTES = 8
MOST_GROWTH = 16
"""An even grid has at most this many times the voxels of the slices."""


def without_copies(series: DicomSeries) -> DicomSeries:
    """The series with one slice at each place."""
    return replace(series, slices=tuple(group[0] for group in same_places(series)))


def evened(values: np.ndarray, series: DicomSeries, outside: float) -> tuple[np.ndarray, Geometry]:
    """Bring slices to an even grid, by linear interpolation.

    The grid begins with the first slice and ends with the last. Its distance of slices is the most usual one. Where
    slices lie beside each other, it is as wide as all together.

    Args:
        values: (Z, Y, X), the slices.
        series: Their series, with one slice at each place.
        outside: Value where there is no slice.

    Returns:
        (Z, Y, X) of the same type, and the geometry. Whole numbers are rounded.
    """
    row, column = series.spacing[1:]
    shifts = displacements(series) / (column, row)
    moved = np.zeros(2)
    if np.abs(shifts).max() > SIDEWAYS:
        values, moved = _side_by_side(values, shifts, outside)
    placement = itk_placement(series.geometry)
    direction = np.reshape(placement.direction, (3, 3))
    origin = np.asarray(placement.origin) + direction[:, :2] @ (moved * placement.spacing[:2])
    step = series.spacing[0]
    if not is_even(series):
        values, step = _spread(values, series.offsets)
    spacing = (*placement.spacing[:2], step)
    return values, ItkPlacement(spacing, tuple(origin.tolist()), placement.direction).to_geometry()


def _side_by_side(values: np.ndarray, shifts: np.ndarray, outside: float) -> tuple[np.ndarray, np.ndarray]:
    """Slices (Z, Y, X) moved by ``shifts`` (Z, 2) voxels along x and y; and where the first voxel now lies (x, y)."""
    lowest, highest = np.floor(shifts.min(axis=0)), np.ceil(shifts.max(axis=0))
    x, y = (int(n) + 1 for n in highest - lowest)
    shape = len(values), values.shape[1] + y, values.shape[2] + x
    _check_size(shape, values.shape, "a sheared series", "straight")
    result = np.full(shape, outside, values.dtype)
    for index, (one, shift) in enumerate(zip(values, shifts - lowest, strict=True)):
        first = np.floor(shift).astype(int)
        part = one.astype(np.float64)
        for axis, share in ((1, shift[0] - first[0]), (0, shift[1] - first[1])):
            padded = np.pad(part, [(1, 1) if k == axis else (0, 0) for k in (0, 1)], constant_values=outside)
            n = padded.shape[axis]
            part = (1 - share) * np.take(padded, range(1, n), axis) + share * np.take(padded, range(n - 1), axis)
        rows, columns = part.shape
        result[index, first[1] : first[1] + rows, first[0] : first[0] + columns] = _like(part, values.dtype)
    return result, lowest


def _spread(values: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, float]:
    """Slices (Z, Y, X) at uneven offsets, on even ones; and their distance."""
    height = float(offsets[-1] - offsets[0])
    count = round(height / float(np.median(np.diff(offsets)))) + 1
    shape = count, *values.shape[1:]
    _check_size(shape, values.shape, "an uneven series", "even")
    places = np.interp(np.linspace(offsets[0], offsets[-1], count), offsets, np.arange(len(offsets)))
    result = np.empty(shape, values.dtype)
    for index, place in enumerate(places):
        below = min(int(place), len(values) - 2)
        share = place - below
        result[index] = _like((1 - share) * values[below] + share * values[below + 1], values.dtype)
    return result, height / (count - 1)


def _check_size(shape: tuple[int, ...], own: tuple[int, ...], what: str, when: str) -> None:
    """Refuse a volume that would be mostly filled in, or that does not fit into memory."""
    found = f"{shape} voxels (z, y, x) when {when}"
    if math.prod(shape) > MOST_GROWTH * math.prod(own):
        raise SegflowError(
            f"{what} would be mostly filled in",
            found=f"{own} voxels (z, y, x), and {found}",
            expected=f"at most {MOST_GROWTH} times as many",
            fix="Are the positions of its slices right?",
        )
    check_room(VALUE_BYTES * math.prod(shape), what, found=found)


def _like(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values (of any shape) as another type; whole numbers are rounded."""
    return (np.rint(values) if dtype.kind in "iu" else values).astype(dtype)


def is_same_grid(
    shape: tuple[int, ...], geometry: Geometry, other_shape: tuple[int, ...], other_geometry: Geometry
) -> bool:
    """Whether two volumes (z, y, x) have their voxels at the same places."""
    return (
        tuple(shape) == tuple(other_shape)
        and bool(np.allclose(geometry.spacing, other_geometry.spacing, rtol=1e-4))
        and same_placement(geometry, other_geometry)
    )


def onto_grid(
    values: np.ndarray,
    geometry: Geometry,
    shape: tuple[int, int, int],
    target: Geometry,
    *,
    outside: float = 0,
    labels: bool = False,
) -> np.ndarray:
    """Resample a volume to another grid: linearly, or by nearest neighbour for labels.

    Args:
        values: (Z, Y, X).
        geometry: Its geometry.
        shape, target: The other grid.
        outside: Value beyond the volume.
        labels: Whether values are labels.

    Returns:
        (Z, Y, X) of the same type. Whole numbers are rounded.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(values if labels else values.astype(np.float32))
    like = sitk.Image([*map(int, shape[::-1])], sitk.sitkUInt8)
    for one, place in ((image, geometry), (like, target)):
        placement = itk_placement(place)
        one.SetSpacing(placement.spacing)
        one.SetOrigin(placement.origin)
        one.SetDirection(placement.direction)
    how = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    moved = sitk.Resample(image, like, sitk.Transform(), how, float(outside))
    return _like(sitk.GetArrayFromImage(moved), values.dtype)


def label_on_grid(
    label: np.ndarray, geometry: Geometry, shape: tuple[int, int, int], target: Geometry, *, resample: bool
) -> np.ndarray:
    """A label map on the grid of its image, compared in the space of the patient.

    Axes of another order or direction are turned, which changes no voxel.

    Args:
        label: (Z, Y, X).
        geometry: Its geometry.
        shape, target: Grid of the image.
        resample: Resample a label map of another grid; false refuses it.

    Raises:
        SegflowError: It has another grid.
    """
    steps = np.linalg.inv(affine_of(geometry)) @ affine_of(target)  # voxel of the image (x, y, z) → of the label
    whole = np.rint(steps[:3, :3]).astype(int)
    turned = None
    if np.abs(steps[:3, :3] - whole).max() * max(shape) < 0.5 and (np.abs(whole).sum(axis=0) == 1).all():
        turned = _turned(label, whole, steps[:3, 3], shape)
    if turned is not None:
        return turned
    if not resample:
        raise SegflowError(
            "the label map lies on another grid than the image",
            found=f"{label.shape} voxels (z, y, x) of {mm(geometry)}",
            expected=f"{tuple(shape)} voxels of {mm(target)} at the same place",
            fix="resample=true brings it to the image's grid.",
        )
    return onto_grid(label, geometry, shape, target, labels=True)


def _turned(label: np.ndarray, whole: np.ndarray, start: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray | None:
    """The label map (Z, Y, X) with axes in the image's order and direction; None if it covers another part."""
    axes = np.abs(whole).argmax(axis=0)  # axis of the label along which each of the image's axes runs
    if len(set(axes.tolist())) < 3:
        return None
    xyz = label.transpose(2, 1, 0)
    ends = [0.0 if whole[axis, k] > 0 else xyz.shape[axis] - 1.0 for k, axis in enumerate(axes)]
    if np.abs(start[axes] - ends).max() > ON_GRID * 10 or tuple(xyz.shape[axis] for axis in axes) != tuple(shape[::-1]):
        return None
    flips = tuple(slice(None, None, int(whole[axis, k])) for k, axis in enumerate(axes))
    return np.ascontiguousarray(xyz.transpose(axes)[flips].transpose(2, 1, 0))
