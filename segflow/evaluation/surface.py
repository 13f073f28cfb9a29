"""Distances between the surfaces of two objects, in mm.

Definitions are those of DeepMind's surface-distance package (Nikolov et al. 2018, arXiv:1809.04430): a surface element
lies at each corner whose voxels are neither all inside nor all outside. Its weight is the area of the surface that
passes there, and its distance is that to the nearest element of the other object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from segflow.evaluation.surface_area import cell_areas, cell_codes


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
    areas = cell_areas(spacing)
    codes = [cell_codes(mask) for mask in (reference, prediction)]
    surfaces = [(code != 0) & (code != len(areas) - 1) for code in codes]
    weights = [areas[code[surface]] for code, surface in zip(codes, surfaces, strict=True)]
    there = _distances(surfaces[0], surfaces[1], spacing)
    back = _distances(surfaces[1], surfaces[0], spacing)
    first, second = np.lexsort((weights[0], there)), np.lexsort((weights[1], back))
    return SurfaceDistances(there[first], weights[0][first], back[second], weights[1][second])


def _distances(source: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """mm from each element of ``source`` to the nearest of ``target``, in array order.

    A tree of the elements needs far less memory than a distance map, since most of a volume has no surface.
    """
    distances = np.zeros(int(np.count_nonzero(source)))
    if not len(distances):
        return distances
    scale = np.asarray(spacing, dtype=np.float64)
    points = np.argwhere(target) * scale
    if not len(points):
        return np.full(len(distances), np.inf)
    apart = ~target[source]  # elements that both surfaces share are at distance 0
    tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
    distances[apart] = tree.query(np.argwhere(source & ~target) * scale)[0]
    return distances
