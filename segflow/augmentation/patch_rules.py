"""Rules that depend on the shape of a patch: rotation, dummy-2D and the patch to load (recipe 6.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from segflow.core.geometry import ANISOTROPY_THRESHOLD


def is_dummy_2d(patch_size: Sequence[int]) -> bool:
    """Whether a 3D patch is augmented slice by slice, because its first axis is much shorter than the longest."""
    return len(patch_size) == 3 and max(patch_size) / patch_size[0] > ANISOTROPY_THRESHOLD


def rotation_limit(patch_size: Sequence[int], dummy_2d: bool) -> float:
    """Largest rotation about each axis in degrees, in either direction."""
    if len(patch_size) == 2:
        return 15.0 if max(patch_size) / min(patch_size) > 1.5 else 180.0
    return 180.0 if dummy_2d else 30.0


def loader_patch_size(
    patch_size: Sequence[int], rotation_degrees: float, smallest_scale: float, dummy_2d: bool
) -> tuple[int, ...]:
    """Voxels to load so that a rotated patch finds data in its corners.

    The patch's extent vector is rotated about each single axis. The largest component along each axis is divided by the
    smallest scale.

    Args:
        patch_size: (z, y, x) or (y, x).
        rotation_degrees: Largest rotation; more than 90 counts as 90.
        smallest_scale: Divisor. It is 0.85 in nnU-Net, whose augmentation draws even smaller scales.
        dummy_2d: Keep the first axis as it is.
    """
    angle = min(math.radians(rotation_degrees), math.pi / 2)
    extent = np.asarray(patch_size, float)
    largest = extent.copy()
    for a, b in _rotation_planes(len(extent)):
        turned = extent.copy()
        turned[a] = math.cos(angle) * extent[a] + math.sin(angle) * extent[b]
        turned[b] = math.cos(angle) * extent[b] - math.sin(angle) * extent[a]
        largest = np.maximum(largest, np.abs(turned))
    result = [int(v) for v in largest / smallest_scale]
    if dummy_2d:
        result[0] = int(patch_size[0])
    return tuple(result)


def _rotation_planes(dims: int) -> tuple[tuple[int, int], ...]:
    """Pairs of axes, in the direction in which the recipe's rotation matrices turn."""
    return ((0, 1),) if dims == 2 else ((1, 2), (2, 0), (0, 1))


def interchangeable_axes(patch_size: Sequence[int]) -> tuple[int, ...]:
    """Axes that may be exchanged: the largest group of equal length, or none (recipe 16, DA5)."""
    counts = [list(patch_size).count(n) for n in patch_size]
    most = max(counts)
    return tuple(axis for axis, count in enumerate(counts) if count == most) if most > 1 else ()
