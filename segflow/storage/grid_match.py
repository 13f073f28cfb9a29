"""Whether two grids are the same place but for rounding, and label maps on another grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.image_formats.placement import ItkPlacement, array_affine, file_ndim, same_placement
from segflow.storage.label_values import label_values

ROUNDING = 0.05
"""Part of a voxel by which the corners of two grids may lie apart if headers differ by rounding only."""
STRAIGHTENED = 0.5
"""Part of a voxel by which a corner may move when the axes of a grid are made perpendicular."""
COINCIDE = 0.9
"""Part of the space of two volumes that both must cover."""
EDGE = 1e-3
"""Part of a voxel that a place may lie outside by rounding."""


def corners_apart(one: Geometry, other: Geometry, shape: Sequence[int]) -> float:
    """Largest distance between the places that two geometries give to a corner of a grid.

    Args:
        one, other: The geometries.
        shape: Voxels along z, y, x.

    Returns:
        The distance as a part of the smallest voxel edge of ``one``.
    """
    n = min(file_ndim(one), file_ndim(other))  # a plane's third axis may be invalid
    corners = np.array(list(itertools.product(*((0, size - 1) for size in reversed(shape)))))[:, :n].T
    a, b = array_affine(one), array_affine(other)
    apart = (a[:3, :n] - b[:3, :n]) @ corners + (a[:3, 3] - b[:3, 3])[:, np.newaxis]
    return float(np.linalg.norm(apart, axis=0).max() / np.linalg.norm(a[:3, :n], axis=0).min())


def straightened(geometry: Geometry, shape: Sequence[int]) -> Geometry | None:
    """The nearest geometry with perpendicular axes, the same spacing and the same centre.

    Args:
        geometry: Geometry of an array in the axes of its file.
        shape: Voxels along z, y, x.

    Returns:
        None if a corner would move by more than `STRAIGHTENED`.
    """
    if file_ndim(geometry) == 2:
        return None
    affine = array_affine(geometry)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, vh = np.linalg.svd(affine[:3, :3] / spacing)
    axes = (u @ vh) * spacing
    centre = (np.array(shape[::-1]) - 1) / 2
    origin = affine[:3, 3] + (affine[:3, :3] - axes) @ centre
    to_lps = np.array([-1.0, -1.0, 1.0])
    direction = (axes / spacing) * to_lps[:, np.newaxis]
    placement = ItkPlacement(
        tuple(spacing.tolist()), tuple((origin * to_lps).tolist()), tuple(direction.ravel().tolist())
    )
    result = placement.to_geometry()
    return result if corners_apart(geometry, result, shape) <= STRAIGHTENED else None


def onto_grid(label: np.ndarray, label_geometry: Geometry, shape: Sequence[int], geometry: Geometry) -> np.ndarray:
    """A label map on an image's grid: each voxel gets the label of the nearest one in space.

    Args:
        label: Whole numbers (Z, Y, X).
        label_geometry: Its geometry.
        shape: Voxels of the image along z, y, x.
        geometry: The image's geometry.

    Raises:
        SegflowError: The two volumes are not the same part of space, or a label would be lost.
    """
    if 2 in (file_ndim(geometry), file_ndim(label_geometry)):
        raise SegflowError("planes cannot be brought onto another grid")
    same_start = same_placement(geometry, label_geometry) and np.allclose(geometry.spacing, label_geometry.spacing)
    if same_start and label.shape != tuple(shape):
        raise SegflowError(
            "image and label map start at the same place with the same voxels, but differ in shape (z, y, x)",
            found=f"image {tuple(shape)}, label map {label.shape}",
            expected="an origin that tells where one was cropped",
        )
    to_label = np.linalg.inv(array_affine(label_geometry)) @ array_affine(geometry)
    share = _covered_by_both(np.linalg.inv(to_label), label.shape, shape)
    if share < COINCIDE:
        raise SegflowError(
            "image and label map are not the same part of space",
            found=f"{share:.0%} of their space is covered by both",
            expected=f"at least {COINCIDE:.0%}",
        )
    z, y, x = np.nonzero(label)
    at = np.linalg.solve(to_label[:3, :3], np.stack([x, y, z]) - to_label[:3, 3:])
    size = np.array(shape[::-1])[:, np.newaxis]
    if outside := int(((at < -0.5 - EDGE) | (at > size - 0.5 + EDGE)).any(axis=0).sum()):
        raise SegflowError(f"{outside} voxels of the label map lie outside the image")
    result = np.zeros(tuple(shape), label.dtype)
    rows, columns = np.arange(shape[1])[:, np.newaxis], np.arange(shape[2])
    limits = label.shape[::-1]
    for k in range(shape[0]):
        places = [
            np.floor(m[0] * columns + m[1] * rows + (m[2] * k + m[3] + 0.5)).astype(np.int64) for m in to_label[:3]
        ]
        inside = np.logical_and.reduce([(p >= 0) & (p < n) for p, n in zip(places, limits, strict=True)])
        px, py, pz = (p[inside] for p in places)
        result[k][inside] = label[pz, py, px]
    if lost := sorted(set(label_values(label)) - {0, *label_values(result)}):
        raise SegflowError("labels would be lost on the image's grid", found=lost[:10])
    return result


def _covered_by_both(to_image: np.ndarray, label_shape: Sequence[int], shape: Sequence[int]) -> float:
    """Part of the space of both volumes that both cover, for boxes along the image's axes."""
    corners = np.array(list(itertools.product(*((-0.5, size - 0.5) for size in reversed(label_shape))))).T
    places = to_image[:3, :3] @ corners + to_image[:3, 3:]
    low, high = places.min(axis=1), places.max(axis=1)
    image_high = np.array(shape[::-1]) - 0.5
    common = np.prod(np.maximum(0, np.minimum(high, image_high) - np.maximum(low, -0.5)))
    return float(common / (np.prod(high - low) + np.prod(shape) - common))
