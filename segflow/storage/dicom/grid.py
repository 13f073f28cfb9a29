"""The voxel grid of a series, on which frames and contours of other DICOM objects are placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.storage.image_formats.placement import LPS_TO_RAS, affine_of

ON_GRID = 0.1
"""Voxels by which a position may miss its voxel: headers round positions and directions."""
ON_SLICE = 0.2
"""Slices by which a contour may miss its slice."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A frame of another object: the placement of its pixels in mm, in DICOM's patient axes (LPS).

    Attributes:
        position: Centre of the first pixel, float64 (3,): x, y, z.
        right: Step from a column to the next, float64 (3,).
        down: Step from a row to the next, float64 (3,).
        rows, columns: Size in pixels.
    """

    position: np.ndarray
    right: np.ndarray
    down: np.ndarray
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Grid:
    """A voxel grid.

    Attributes:
        shape: Voxels along z, y, x.
        geometry: Its placement.
        frame_of_reference: Its coordinate system of the patient; empty if it is unknown.
    """

    shape: tuple[int, int, int]
    geometry: Geometry
    frame_of_reference: str = ""

    def check_frame(self, uid: str) -> None:
        """Refuse positions of another coordinate system.

        Raises:
            SegflowError: Both are known and differ.
        """
        if uid and self.frame_of_reference and uid != self.frame_of_reference:
            raise SegflowError(
                "the positions are of another frame of reference than the series'",
                found=uid,
                expected=self.frame_of_reference,
                fix="Register one with the other, and export the labels for this series.",
            )

    def voxels_from_mm(self) -> np.ndarray:
        """float64 (4, 4): patient position in mm (LPS) → voxel index (x, y, z)."""
        inverse: np.ndarray = np.linalg.inv(LPS_TO_RAS @ affine_of(self.geometry))
        return inverse

    def voxels_of(self, mask: np.ndarray, plane: Plane) -> np.ndarray:
        """Positions in the flattened grid of a frame's pixels.

        Args:
            mask: bool (rows, columns).
            plane: Where the frame lies. Its axes may run along any axes of the grid, in either direction.

        Returns:
            int64 (N,), one for each pixel of the mask.

        Raises:
            SegflowError: The frame's pixels are no voxels of this grid, or pixels of the mask lie outside.
        """
        inverse = self.voxels_from_mm()
        start = inverse[:3, :3] @ plane.position + inverse[:3, 3]
        steps = np.stack([inverse[:3, :3] @ plane.right, inverse[:3, :3] @ plane.down])
        last = (max(plane.columns - 1, 1), max(plane.rows - 1, 1))
        miss = max(
            np.abs(start - np.round(start)).max(),
            *(np.abs(step - np.round(step)).max() * n for step, n in zip(steps, last, strict=True)),
        )
        whole = np.round(steps).astype(np.int64)
        if not miss <= ON_GRID or not np.array_equal(np.abs(whole).sum(axis=1), (1, 1)) or whole[0] @ whole[1]:
            raise SegflowError(
                "a segment's frame lies on another grid than the series",
                found=f"first pixel at voxel x, y, z = {_short(start)}, "
                f"a column is {_short(steps[0])} voxels, a row {_short(steps[1])}",
                expected="pixels that are voxels of the series",
                fix="Resample the segmentation onto the series, for instance in 3D Slicer.",
            )
        rows, columns = np.nonzero(mask)
        at = np.round(start).astype(np.int64) + columns[:, None] * whole[0] + rows[:, None] * whole[1]
        size = np.array(self.shape[::-1])
        outside = np.count_nonzero(np.any((at < 0) | (at >= size), axis=1))
        if outside:
            raise SegflowError(
                "a segment lies outside its series",
                found=f"{outside} of {len(at)} pixels of a frame; they would be voxels x, y, z from "
                f"{at.min(axis=0).tolist()} to {at.max(axis=0).tolist()}",
                expected=f"0 to {(size - 1).tolist()}",
                fix="Is the series complete, and is it the one that was segmented?",
            )
        flat: np.ndarray = (at[:, 2] * size[1] + at[:, 1]) * size[0] + at[:, 0]
        return flat


def _short(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]
