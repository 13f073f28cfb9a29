"""Target spacing, axis order, and shapes of the dataset at that spacing (recipe 3.2 to 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segflow.core.fingerprint import Fingerprint
from segflow.core.geometry import resampled_shape
from segflow.planning.planner_settings import PlannerSettings
from segflow.planning.workings import SpacingWorking


def target_spacing(fingerprint: Fingerprint, settings: PlannerSettings) -> tuple[np.ndarray, SpacingWorking]:
    """The full-resolution spacing: the median, or less along an axis that is much coarser than the others.

    Returns:
        float64 (3,) mm, original axis order; and how it was found.
    """
    spacings = np.array(fingerprint.spacings, dtype=np.float64)
    target = np.percentile(spacings, 50, 0)
    shape = np.percentile(np.array(fingerprint.shapes_cropped), 50, 0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    finer = max(target[others])
    coarse_spacing = target[coarse] > settings.anisotropy_threshold * finer
    few_voxels = shape[coarse] * settings.anisotropy_threshold < min(shape[others])
    working = SpacingWorking(
        given=settings.target_spacing is not None,
        median=tuple(target.tolist()),
        shape=tuple(shape.tolist()),
        coarse=coarse,
        is_coarse=bool(coarse_spacing),
        has_few=bool(few_voxels),
    )
    if settings.target_spacing is not None:
        return np.array(settings.target_spacing), working
    if coarse_spacing and few_voxels:
        # With the median, slices of the finer cases would be lost to interpolation.
        wanted = np.percentile(spacings[:, coarse], settings.coarse_axis_percentile)
        target[coarse] = wanted if wanted >= finer else finer + 1e-5
    return target, working


def axis_order(target: np.ndarray, settings: PlannerSettings) -> tuple[int, ...]:
    """Permutation to plan axes: the coarsest axis first, the others as they were.

    Args:
        target: float (3,), the target spacing in mm along the original axes (z, y, x).
        settings: May keep the axes as they are.
    """
    if settings.suppress_transpose:
        return (0, 1, 2)
    coarse = int(np.argmax(target))
    return (coarse, *(axis for axis in range(3) if axis != coarse))


def median_resampled_shape(fingerprint: Fingerprint, target: np.ndarray) -> np.ndarray:
    """Median over cases of the shape at the target spacing: float64 (3,), original axis order, may have halves."""
    median: np.ndarray = np.median(np.array(resampled_shapes(fingerprint, target.tolist())), 0)
    return median


def resampled_shapes(fingerprint: Fingerprint, target: Sequence[float]) -> list[tuple[int, ...]]:
    """Shape of every case at a spacing, original axis order."""
    pairs = zip(fingerprint.shapes_cropped, fingerprint.spacings, strict=True)
    return [resampled_shape(shape, spacing, target) for shape, spacing in pairs]
