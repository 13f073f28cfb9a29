"""Counts of lesions instead of voxels: found, missed and false ones."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np

VOXELS_AT_ONCE = 1 << 20
"""Voxels of which the sizes of components are counted at a time."""


@dataclass(frozen=True, slots=True)
class LesionCounts:
    """Connected components of one label in one case.

    Attributes:
        found: Reference lesions that the prediction touches.
        missed: Reference lesions that it does not.
        false: Predicted lesions that touch no reference lesion.
    """

    found: int
    missed: int
    false: int

    @property
    def f1(self) -> float:
        """2 found / (2 found + missed + false); NaN if neither map holds a lesion."""
        total = 2 * self.found + self.missed + self.false
        return 2 * self.found / total if total else float("nan")


def count_lesions(reference: np.ndarray, prediction: np.ndarray, min_overlap: float = 0.0) -> LesionCounts:
    """Match the connected components (diagonal neighbours included) of two objects.

    Args:
        reference: bool (Z, Y, X).
        prediction: bool, same shape.
        min_overlap: A reference lesion is found if more than this share of its voxels is predicted. A predicted lesion
            is false unless more than this share of its voxels lies in the reference. With 0, one voxel is enough.
    """
    touched_reference = _touched_components(reference, prediction, min_overlap)
    touched_prediction = _touched_components(prediction, reference, min_overlap)
    found = int(touched_reference.sum())
    return LesionCounts(found, len(touched_reference) - found, int((~touched_prediction).sum()))


def _touched_components(mask: np.ndarray, other: np.ndarray, min_overlap: float) -> np.ndarray:
    """For each component of ``mask``: whether more than the share of its voxels lies in ``other``."""
    components, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    covered = component_sizes(components, other, count)
    if not min_overlap:
        return covered > 0
    return covered > min_overlap * component_sizes(components, mask, count)


def component_sizes(components: np.ndarray, within: np.ndarray, count: int) -> np.ndarray:
    """Voxels of each component within a mask. Few are counted at a time, since counting copies them to 64 bits.

    Args:
        components: Number of each voxel's component, 0 for background (Z, Y, X).
        within: bool (Z, Y, X).
        count: Number of components.

    Returns:
        int64 (count,).
    """
    sizes = np.zeros(count + 1, dtype=np.int64)
    step = max(1, VOXELS_AT_ONCE // max(1, components[:1].size))
    for start in range(0, len(components), step):
        part = np.s_[start : start + step]
        sizes += np.bincount(components[part][within[part]], minlength=count + 1)
    return sizes[1:]
