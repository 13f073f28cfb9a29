"""Reading of RTSTRUCT objects: contours become masks.

A voxel belongs to a structure if its centre lies inside an odd number of the structure's contours in its slice, so that
a contour within another one is a hole. Slices between contours are not invented.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.wording import some
from segflow.storage.dicom.grid import ON_SLICE, Grid
from segflow.storage.dicom.name_map import NameMapBuilder
from segflow.storage.dicom.object_file import items_of, numbers_of, object_file
from segflow.storage.dicom.segmentation_read import NameOf

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger(__name__)

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OTHERS = "Mend the contour, or name the structures to take: segments={liver: liver}."
MOST_POINTS = 1 << 18
"""Points of a contour."""
CROSSINGS_AT_ONCE = 1 << 22
"""Crossings of rows and edges that are computed together."""


def add_structures(file: Path, grid: Grid, name_of: NameOf, target: NameMapBuilder) -> None:
    """Add the structures of an RTSTRUCT file to a map. Those of one name are united.

    Args:
        file: The file.
        grid: The grid of the series, whose slices the contours lie on.
        name_of: See `NameOf`. Structures without a closed contour, such as markers, are left out with a warning if
            their name is taken as it is.
        target: Takes the voxels.

    Raises:
        SegflowError: The file cannot be read; or a contour is open, has less than three points, does not lie within a
            slice of the series, or is on none of its slices. The error names file, structure and contour.
    """
    with object_file(file) as dataset:
        labels = structure_labels(dataset)
        frames = {
            int(item.ROINumber): str(item.get("ReferencedFrameOfReferenceUID") or "")
            for item in items_of(dataset, "StructureSetROISequence")
        }
        contours = {int(item.ReferencedROINumber): item for item in items_of(dataset, "ROIContourSequence")}
        for number, label in labels.items():
            name = name_of(label)
            if name is None:
                continue
            items = items_of(contours.get(number), "ContourSequence")
            kinds = {str(item.get("ContourGeometricType", "")).upper() for item in items}
            if kinds and not kinds.intersection(CLOSED) and name == label:
                logger.warning(
                    "%s: structure '%s' has no closed contour (%s) and is left out", file, label, some(kinds)
                )
                continue
            target.add(name, np.zeros(0, np.int64))
            try:
                grid.check_frame(frames[number])
                for voxels in _voxels(items, grid, f"{file}: structure '{label}'"):
                    target.add(name, voxels)
            except SegflowError as error:
                raise error.changed(problem=f"structure '{label}': {error.problem}") from error


def structure_labels(dataset: Dataset) -> dict[int, str]:
    """Number → name of each structure.

    Raises:
        SegflowError: There is none, or a number occurs twice.
    """
    labels: dict[int, str] = {}
    for item in items_of(dataset, "StructureSetROISequence"):
        number = int(item.ROINumber)
        if number in labels:
            raise SegflowError("two structures have the same number", found=number)
        labels[number] = str(item.get("ROIName") or f"structure {number}").strip()
    if not labels:
        raise SegflowError("the file describes no structure", expected="StructureSetROISequence")
    return labels


def _voxels(items: Sequence[Dataset], grid: Grid, what: str) -> list[np.ndarray]:
    """Positions in the flattened grid, one array per slice."""
    on_slice: dict[int, list[np.ndarray]] = {}
    for number, item in enumerate(items, 1):
        try:
            z, polygon = _polygon(item, grid)
        except SegflowError as error:
            raise error.changed(problem=f"contour {number}: {error.problem}") from error
        on_slice.setdefault(z, []).append(polygon)
    if on_slice and len(on_slice) <= max(on_slice) - min(on_slice):
        missing = sorted(set(range(min(on_slice), max(on_slice))).difference(on_slice))
        found = some([str(z) for z in missing])
        logger.warning("%s has no contour on slices between others: %s (from 0). They stay empty there.", what, found)
    _, rows, columns = grid.shape
    return [
        np.flatnonzero(inside_polygons(polygons, rows, columns)) + z * rows * columns
        for z, polygons in sorted(on_slice.items())
    ]


def _polygon(item: Dataset, grid: Grid) -> tuple[int, np.ndarray]:
    """Slice of a contour, and its points x, y in voxels, float64 (N, 2)."""
    kind = str(item.get("ContourGeometricType", "")).upper()
    if kind not in CLOSED:
        raise SegflowError(
            "the contour encloses nothing", found=kind or "no type", expected=" | ".join(CLOSED), fix=OTHERS
        )
    data = item.get("ContourData")
    length = len(data) if hasattr(data, "__len__") else 0
    if length % 3 or not 9 <= length <= 3 * MOST_POINTS:
        raise SegflowError(
            "the contour encloses nothing",
            found=f"{length / 3:g} points",
            expected="3 points or more",
            fix=OTHERS,
        )
    inverse = grid.voxels_from_mm()
    points = numbers_of(item, "ContourData", length).reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3]
    heights = points[:, 2]
    z = round(float(np.median(heights)))
    if np.ptp(heights) > 2 * ON_SLICE:
        raise SegflowError(
            "the contour does not lie within a slice of the series",
            found=f"it reaches from slice {heights.min():.2f} to {heights.max():.2f} (from 0)",
            fix="Contours across the slices cannot be read. Was another series contoured?",
        )
    if np.abs(heights - z).max() > ON_SLICE or not 0 <= z < grid.shape[0]:
        raise SegflowError(
            "the contour lies on none of the series' slices",
            found=f"slice {np.median(heights):.2f} (from 0)",
            expected=f"a whole number from 0 to {grid.shape[0] - 1}",
            fix="Is the series complete, and is it the one that was contoured?",
        )
    return z, points[:, :2]


def inside_polygons(polygons: Sequence[np.ndarray], rows: int, columns: int) -> np.ndarray:
    """The pixels whose centres lie inside an odd number of polygons.

    A centre on an edge counts as inside on the left and upper side of the polygon, and as outside on the others, so
    that polygons with a common edge share no pixel. An edge that is passed in both directions, as by a contour that
    goes to a hole and back, changes nothing.

    Args:
        polygons: float64 (N, 2) each: x, y of the corners in pixels. The last is joined to the first.
        rows, columns: Size of the mask.

    Returns:
        bool (rows, columns).
    """
    crossed = np.zeros((rows, columns + 1), np.int64)
    for polygon in polygons:
        ends = np.stack([polygon, np.roll(polygon, -1, axis=0)], axis=1)
        upward = ends[:, 0, 1] > ends[:, 1, 1]
        ends[upward] = ends[upward][:, ::-1]  # an edge gives the same crossings in both directions
        first, stop = np.clip(np.ceil(ends[:, :, 1]), 0, rows).astype(np.int64).T
        most = max(1, CROSSINGS_AT_ONCE // max(1, rows))
        for k in range(0, len(ends), most):
            _count_crossings(crossed, ends[k : k + most], first[k : k + most], stop[k : k + most])
    inside: np.ndarray = np.cumsum(crossed[:, :columns], axis=1) % 2 == 1
    return inside


def _count_crossings(crossed: np.ndarray, ends: np.ndarray, first: np.ndarray, stop: np.ndarray) -> None:
    """Count, for each row, the first pixel to the right of each edge that crosses the row.

    Args:
        crossed: int64 (rows, columns + 1), changed in place.
        ends: float64 (edges, 2, 2): x, y of both ends, the upper one first.
        first, stop: int64 (edges,): rows that an edge crosses.
    """
    counts = stop - first
    edge = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    (x0, y0), (x1, y1) = ends[edge, 0].T, ends[edge, 1].T
    x = x0 + (row - y0) / (y1 - y0) * (x1 - x0)
    column = np.clip(np.ceil(x), 0, crossed.shape[1] - 1).astype(np.int64)
    np.add.at(crossed, (row, column), 1)
