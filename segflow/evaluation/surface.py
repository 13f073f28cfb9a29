"""Distances between the surfaces of two objects, in mm.

Definitions are those of DeepMind's surface-distance package (Nikolov et al. 2018, arXiv:1809.04430): a surface element
lies at each corner whose voxels are neither all inside nor all outside. Its weight is the area of the surface that
passes there, and its distance is that to the nearest element of the other object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segflow.evaluation.surface_elements import CornerGrid, Surface, slabs_of


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """All surface elements of both objects, sorted by their distance to the other object's surface.

    Attributes:
        reference: float64 (n,) mm from the elements of the reference to the prediction; inf if there is none.
        reference_areas: float64 (n,) mm² (mm in 2D) of the same elements.
        prediction: float64 (m,) mm from the elements of the prediction to the reference; inf if there is none.
        prediction_areas: float64 (m,) mm² (mm in 2D) of the same elements.
    """

    reference: np.ndarray
    reference_areas: np.ndarray
    prediction: np.ndarray
    prediction_areas: np.ndarray

    def percentile_mm(self, percent: float) -> float:
        """Distance that ``percent`` of the surface does not exceed, the larger of the two directions.

        95 gives the HD95, 100 the Hausdorff distance. NaN if both objects are empty, inf if one is.
        """
        if not len(self.reference) and not len(self.prediction):
            return float("nan")
        directions = ((self.reference, self.reference_areas), (self.prediction, self.prediction_areas))
        return max(_percentile(distances, areas, percent) for distances, areas in directions)

    def mean_mm(self) -> float:
        """Mean distance of the two surfaces: the mean of the area-weighted means of both directions.

        NaN if both objects are empty, inf if one is.
        """
        if not len(self.reference) and not len(self.prediction):
            return float("nan")
        if not len(self.reference) or not len(self.prediction):
            return float("inf")
        there = np.average(self.reference, weights=self.reference_areas)
        back = np.average(self.prediction, weights=self.prediction_areas)
        return float((there + back) / 2)

    def dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces that lies within the tolerance of the other; NaN if both objects are empty."""
        total = self.reference_areas.sum() + self.prediction_areas.sum()
        if total == 0:
            return float("nan")
        near = self.reference_areas[self.reference <= tolerance_mm].sum()
        near += self.prediction_areas[self.prediction <= tolerance_mm].sum()
        return float(near / total)


def _percentile(distances: np.ndarray, areas: np.ndarray, percent: float) -> float:
    if not len(distances):
        return float("inf")
    share = np.cumsum(areas) / areas.sum()
    index = int(np.searchsorted(share, percent / 100.0))
    return float(distances[min(index, len(distances) - 1)])


def surface_distances(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> SurfaceDistances:
    """Measure the distances between the surfaces of two objects.

    Objects are closed at the border of the array, so arrays may be cropped to the box of both objects.

    Args:
        reference: bool (Z, Y, X) or (Y, X).
        prediction: bool, same shape.
        spacing: mm along the same axes.
    """
    grid = CornerGrid.around(reference.shape, spacing)
    return distances_of(*(grid.surface_of(slabs_of(mask)) for mask in (reference, prediction)))


def distances_of(reference: Surface, prediction: Surface) -> SurfaceDistances:
    """Measure the distances between two surfaces on one grid."""
    there, back = prediction.distances_from(reference), reference.distances_from(prediction)
    first, second = _order(there, reference.kinds), _order(back, prediction.kinds)
    return SurfaceDistances(there[first], reference.areas[first], back[second], prediction.areas[second])


def _order(distances: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """The order by distance, then area. Most elements lie at 0, and need no second sort."""
    by_area = kinds.argsort(kind="stable")
    near = distances[by_area] == 0
    apart = by_area[~near]
    return np.concatenate([by_area[near], apart[distances[apart].argsort(kind="stable")]])
