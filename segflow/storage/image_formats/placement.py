"""Placement of a grid in the patient: conversion between ITK's header, NIfTI's affine and array axes.

Header orders (x, y, z) are confined to this package. ITK's world is LPS+, NIfTI's is RAS+; both are in mm. A
geometry's ``header`` holds ITK's ``spacing, origin, direction``, or an ``affine``, or an ``origin`` alone (formats that
know no patient), or nothing for an array without a file. Under ``nifti`` it holds the numbers of a NIfTI header
(`nifti_forms`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.names import shortened

FLAT_SPACING_FACTOR = 999
"""A 2D image's first spacing is this many times its largest (recipe 1.5)."""

ORTHONORMAL_TOLERANCE = 1e-4
"""Cosine below which an angle is a right one; headers hold float32, so their right angles are inexact."""

STRAIGHT = 0.9
"""Cosine to the nearest axis of the patient, below which a grid is oblique: it follows an organ, not the body."""

LEFT_HANDED_SPACE = "3D-left-handed"
"""Start of NRRD's names of left-handed spaces that are not a patient's."""

SHOWN_AS = "exif_orientation"
"""Key of a picture's header, where viewers turn it."""
LAST_UNSWAPPED = 4
"""EXIF's orientations above this one swap height and width."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class ItkPlacement:
    """ITK's header of an image of 2 or 3 dimensions: xyz order, spacing and origin in mm, direction row by row."""

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return len(self.spacing)

    @property
    def is_orthonormal(self) -> bool:
        """Whether the axes are perpendicular and of length 1."""
        matrix = np.reshape(self.direction, (self.ndim, self.ndim))
        return bool(np.allclose(matrix.T @ matrix, np.eye(self.ndim), atol=ORTHONORMAL_TOLERANCE))

    def to_geometry(self) -> Geometry:
        """The geometry of arrays read with this header."""
        zyx = [abs(s) for s in reversed(self.spacing)]
        if self.ndim == 2:
            zyx = [max(self.spacing) * FLAT_SPACING_FACTOR, *zyx]
        header: dict[str, Any] = {
            "ndim": self.ndim,
            "spacing": list(self.spacing),
            "origin": list(self.origin),
            "direction": list(self.direction),
        }
        return Geometry((zyx[0], zyx[1], zyx[2]), header)

    def to_affine(self) -> np.ndarray:
        """float64 (4, 4): voxel index (x, y, z) → RAS+ mm."""
        affine = np.eye(4)
        n = self.ndim
        affine[:n, :n] = np.reshape(self.direction, (n, n)) * np.asarray(self.spacing)
        affine[:n, 3] = self.origin
        return LPS_TO_RAS @ affine


def itk_placement(geometry: Geometry) -> ItkPlacement:
    """ITK's header for arrays of this geometry. The shear of an affine is lost.

    Raises:
        SegflowError: A stored geometry is not a placement.
    """
    try:
        return _itk_placement(geometry)
    except (*UNUSABLE, np.linalg.LinAlgError) as error:
        raise SegflowError(
            "the stored placement of the image cannot be used", found=shortened(dict(geometry.header))
        ) from error


def _itk_placement(geometry: Geometry) -> ItkPlacement:
    header = geometry.header
    if "direction" in header:
        return ItkPlacement(tuple(header["spacing"]), tuple(header["origin"]), tuple(header["direction"]))
    spacing = tuple(reversed(geometry.spacing))
    if "affine" not in header:
        if header.get("ndim") == 2:
            return ItkPlacement(spacing[:2], tuple(header.get("origin", (0.0, 0.0))), (1.0, 0.0, 0.0, 1.0))
        origin = tuple(header.get("origin", (0.0, 0.0, 0.0)))
        return ItkPlacement(spacing, origin, tuple(np.eye(3).ravel().tolist()))
    affine = LPS_TO_RAS @ np.asarray(header["affine"], dtype=np.float64)
    u, _, vh = np.linalg.svd(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    norms = np.linalg.norm(affine[:3, :3], axis=0)
    return ItkPlacement(tuple(norms.tolist()), tuple(affine[:3, 3].tolist()), tuple((u @ vh).ravel().tolist()))


def affine_of(geometry: Geometry) -> np.ndarray:
    """float64 (4, 4): voxel index (x, y, z) of the file → RAS+ mm."""
    if "affine" in geometry.header:
        return np.asarray(geometry.header["affine"], dtype=np.float64)
    return itk_placement(geometry).to_affine()


def array_affine(geometry: Geometry) -> np.ndarray:
    """float64 (4, 4): voxel index (x, y, z) of the array, which may be turned against its file → RAS+ mm."""
    turned = geometry.header.get("reoriented_affine")
    return affine_of(geometry) if turned is None else np.asarray(turned, dtype=np.float64)


def upright(affine: np.ndarray) -> np.ndarray:
    """The affine (4, 4) of a plane with a third axis of 1 mm across it. A file may give a third axis of length 0."""
    result = np.array(affine, dtype=np.float64)
    with np.errstate(all="ignore"):  # if the axes span no plane, the result is invalid, which callers check
        x, y = (result[:3, axis] / np.linalg.norm(result[:3, axis]) for axis in (0, 1))
        normal = np.cross(x, y)
        result[:3, 2] = normal / np.linalg.norm(normal)
    return result


def shown_as(geometry: Geometry) -> int:
    """How a viewer turns the stored pixels of a picture: EXIF's orientation, from 1 (not at all) to 8."""
    return int(geometry.header.get(SHOWN_AS, 1))


def may_be_turned(shape: Sequence[int], one: Geometry, other: Geometry) -> bool:
    """Whether two pictures of this shape (z, y, x) agree as they are stored, but not as viewers show them.

    If a viewer swaps height and width of one, and these differ, equal shapes say that both are meant as stored.
    """
    turns = shown_as(one), shown_as(other)
    return turns[0] != turns[1] and (max(turns) <= LAST_UNSWAPPED or shape[-1] == shape[-2])


def file_ndim(geometry: Geometry) -> int:
    """Dimensions of a file for arrays of this geometry: 2 or 3."""
    return int(geometry.header.get("ndim", 3))


def left_right_axis(geometry: Geometry) -> int | None:
    """The array axis (0 z, 1 y, 2 x) that runs most nearly from left to right of the patient, if the file says so."""
    header = geometry.header
    if file_ndim(geometry) == 2 or not {"affine", "direction", "reoriented_affine"} & set(header):
        return None
    affine = array_affine(geometry)
    return _left_right_axis(affine[:3, :3].tobytes())


@lru_cache(maxsize=1024)  # cases of a dataset often differ in their origins only
def _left_right_axis(axes: bytes) -> int | None:
    """`left_right_axis` of the first three rows and columns of an affine, float64."""
    directions = np.frombuffer(axes).reshape(3, 3)
    used = directions != 0
    if np.isfinite(directions).all() and (used.sum(axis=0) == 1).all() and (used.sum(axis=1) == 1).all():
        return 2 - int(used[0].argmax())  # the grid is along the patient's axes
    import nibabel  # slow to load

    affine = np.eye(4)
    affine[:3, :3] = directions
    world_axes = nibabel.io_orientation(affine)[:, 0]
    (found,) = np.flatnonzero(world_axes == 0) if (world_axes == 0).sum() == 1 else (None,)
    return None if found is None else 2 - int(found)


def orientation(geometry: Geometry) -> str | None:
    """Directions in which x, y and z grow, such as ``RAS``. None for oblique grids, planes and files without them."""
    header = geometry.header
    if file_ndim(geometry) == 2 or not {"affine", "direction", "reoriented_affine"} & set(header):
        return None
    affine = array_affine(geometry)
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    towards = np.abs(cosines).argmax(axis=0)
    if np.abs(cosines).max(axis=0).min() <= STRAIGHT or len(set(towards.tolist())) < 3:
        return None
    return "".join("LRPAIS"[2 * axis + (cosines[axis, column] > 0)] for column, axis in enumerate(towards.tolist()))


def same_placement(one: Geometry, other: Geometry) -> bool:
    """Whether two grids start at the same place and run in the same directions, within rounding (recipe 1.4)."""
    if one == other:  # `allclose` takes longer than a small label map
        return True
    a, b = array_affine(one), array_affine(other)
    n = min(file_ndim(one), file_ndim(other))  # a plane's third axis may be invalid
    scale_a, scale_b = (np.linalg.norm(m[:3, :n], axis=0) for m in (a, b))
    return bool(
        np.allclose(a[:3, :n] / scale_a, b[:3, :n] / scale_b, atol=1e-4)
        and np.allclose(a[:3, 3], b[:3, 3], rtol=1e-5, atol=1e-3 * min(scale_a.min(), scale_b.min()))
    )


def is_sheared(geometry: Geometry) -> bool:
    """Whether the grid's axes are not perpendicular in the patient."""
    n = file_ndim(geometry)
    axes = affine_of(geometry)[:3, :n]
    directions = axes / np.linalg.norm(axes, axis=0)
    return not np.allclose(directions.T @ directions, np.eye(n), atol=ORTHONORMAL_TOLERANCE)


def is_left_handed(geometry: Geometry) -> bool:
    """Whether x, y and z form a left-handed system.

    It is False for a NIfTI, where both kinds are common and every viewer shows them.
    """
    header = geometry.header
    if file_ndim(geometry) == 2 or "direction" not in header or "nifti" in header:
        return False
    mirrored = float(np.linalg.det(np.reshape(header["direction"], (3, 3)))) < 0
    return mirrored != (header.get("space") == LEFT_HANDED_SPACE)


RAS = "RAS"
"""The directions that `reorient` turns to unless others are named: x grows to the right, y to the front, z upwards."""

_TURNED_TO = "reoriented_to"
"""Key of a turned geometry's header for directions other than RAS."""


def reorient(voxels: np.ndarray, geometry: Geometry, to: str = RAS) -> tuple[np.ndarray, Geometry]:
    """Turn an array such that its axes grow in given directions.

    Args:
        voxels: (C, Z, Y, X) as read.
        geometry: Its geometry.
        to: Directions in which x, y and z shall grow, see `orientation`.

    Returns:
        The turned array, a view; and its geometry, whose header still describes the file, for `restore_orientation`.
    """
    if file_ndim(geometry) == 2:  # a plane does not have three axes to turn
        return voxels, geometry
    import nibabel

    affine = affine_of(geometry)
    steps = _steps(affine, to)
    turned = nibabel.apply_orientation(voxels.transpose(3, 2, 1, 0), steps).transpose(3, 2, 1, 0)
    shape_xyz = voxels.shape[:0:-1]
    new_affine = affine @ nibabel.orientations.inv_ornt_aff(steps, shape_xyz)
    xyz = geometry.spacing[::-1]
    turned_xyz = [0.0, 0.0, 0.0]
    for axis, target in enumerate(steps[:, 0].astype(int)):
        turned_xyz[target] = xyz[axis]
    header = {**geometry.header, "reoriented_affine": new_affine.tolist()}
    if to != RAS:
        header[_TURNED_TO] = to
    return turned, Geometry((turned_xyz[2], turned_xyz[1], turned_xyz[0]), header)


def restore_orientation(values: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, Geometry]:
    """Undo `reorient` for an array (Z, Y, X); arrays that were never turned pass through."""
    if "reoriented_affine" not in geometry.header:
        return values, geometry
    import nibabel

    header = {key: value for key, value in geometry.header.items() if key not in ("reoriented_affine", _TURNED_TO)}
    affine = affine_of(Geometry(geometry.spacing, header))
    to = geometry.header.get(_TURNED_TO, RAS)
    back = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt(to), nibabel.io_orientation(affine))
    turned = nibabel.apply_orientation(values.transpose(2, 1, 0), back).transpose(2, 1, 0)
    xyz = geometry.spacing[::-1]
    own = [xyz[target] for target in _steps(affine, to)[:, 0].astype(int)]
    return turned, Geometry((own[2], own[1], own[0]), header)


def box_in_file(box: Box, shape: Sequence[int], geometry: Geometry) -> Box:
    """A box of a turned array in the axes of the file.

    Args:
        box: Box of the array that `reorient` gives.
        shape: (z, y, x) of that array.
        geometry: Its geometry. If it was never turned, the box stays as it is.
    """
    if "reoriented_affine" not in geometry.header:
        return box
    start, stop = [0, 0, 0], [0, 0, 0]
    steps = _steps(affine_of(geometry), geometry.header.get(_TURNED_TO, RAS))
    for axis, (target, direction) in enumerate(steps.astype(int)):
        here, there = 2 - axis, 2 - target
        first, last = box.start[there], box.stop[there]
        flipped = (shape[there] - last, shape[there] - first)
        start[here], stop[here] = (first, last) if direction > 0 else flipped
    return Box(tuple(start), tuple(stop))


def _steps(affine: np.ndarray, to: str) -> np.ndarray:
    """nibabel's orientation (3, 2) that turns an array of this affine to given directions."""
    import nibabel

    own: np.ndarray = nibabel.io_orientation(affine)
    if to != RAS:
        own = nibabel.orientations.ornt_transform(own, nibabel.orientations.axcodes2ornt(to))
    return own
