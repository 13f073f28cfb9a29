"""A case in plan space, and the record that leads back to image space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.labels import LabelKey
from segflow.core.names import shortened
from segflow.core.voxels import LabelSource, VoxelSource


@dataclass(frozen=True, slots=True)
class SpatialRecord:
    """How a case went from image space to plan space: transpose, crop, resample (recipe 4.1). It also leads back.

    Attributes:
        geometry: The image's own geometry: spacing in original axes, and what the writer needs.
        shape_original: Voxels as read, original axes.
        axis_order: Permutation to plan axes; everything below is in plan axes.
        crop: Box of the non-zero part within the transposed image.
        spacing_transposed: mm before resampling.
        spacing_plan: mm after resampling; a 2D configuration keeps the case's own first entry.
        shape_plan: Voxels after resampling.
    """

    geometry: Geometry
    shape_original: tuple[int, ...]
    axis_order: tuple[int, ...]
    crop: Box
    spacing_transposed: tuple[float, ...]
    spacing_plan: tuple[float, ...]
    shape_plan: tuple[int, ...]

    def check(self) -> None:
        """Refuse a record that contradicts itself.

        Raises:
            SegflowError: Axes, shapes, spacings or the box do not fit together.
        """
        spacings = (self.geometry.spacing, self.spacing_transposed, self.spacing_plan)
        fits = (
            sorted(self.axis_order) == [0, 1, 2]
            and all(
                len(shape) == 3 and 0 < min(shape) <= max(shape) < 2**31
                for shape in (self.shape_original, self.shape_plan)
            )
            and all(len(spacing) == 3 and all(math.isfinite(s) and s > 0 for s in spacing) for spacing in spacings)
            and len(self.crop.start) == 3
            and self.crop.clip(self.shape_transposed) == self.crop
        )
        if not fits:
            raise SegflowError("shapes, spacings, axes and crop do not fit together", found=shortened(self, 300))

    @property
    def shape_transposed(self) -> tuple[int, ...]:
        """Voxels before cropping, plan axes."""
        return tuple(self.shape_original[axis] for axis in self.axis_order)

    @property
    def shape_cropped(self) -> tuple[int, ...]:
        """Voxels after cropping and before resampling, plan axes."""
        return self.crop.shape

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with nnU-Net's keys where it has them (recipe 4.4)."""
        return {
            "spacing": list(self.geometry.spacing),
            "header": dict(self.geometry.header),
            "shape_original": list(self.shape_original),
            "axis_order": list(self.axis_order),
            "shape_before_cropping": list(self.shape_transposed),
            "bbox_used_for_cropping": self.crop.to_json(),
            "shape_after_cropping_and_before_resampling": list(self.shape_cropped),
            "spacing_transposed": list(self.spacing_transposed),
            "spacing_plan": list(self.spacing_plan),
            "shape_plan": list(self.shape_plan),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SpatialRecord:
        """Inverse of `to_json`.

        Raises:
            SegflowError: The numbers do not fit together.
        """
        spacing = tuple(float(s) for s in value["spacing"])
        record = cls(
            geometry=Geometry(spacing, dict(value["header"])),  # type: ignore[arg-type]
            shape_original=tuple(int(n) for n in value["shape_original"]),
            axis_order=tuple(int(axis) for axis in value["axis_order"]),
            crop=Box.from_json(value["bbox_used_for_cropping"]),
            spacing_transposed=tuple(float(s) for s in value["spacing_transposed"]),
            spacing_plan=tuple(float(s) for s in value["spacing_plan"]),
            shape_plan=tuple(int(n) for n in value["shape_plan"]),
        )
        record.check()
        return record


@dataclass(frozen=True, slots=True)
class PreprocessedCase:
    """A case in plan space.

    Attributes:
        case_id: Name of the case.
        image: float32 (C, Z, Y, X), normalised.
        label: int16 (Z, Y, X) with -1 outside the non-zero mask, or None for a case without a reference.
        spatial: How it got here from image space.
        foreground_locations: Label or region → int32 (n, 3) voxels (z, y, x) of the plan-space label, drawn by recipe
            4.4. With an ignore label, the key (-1, 0, 1, …, highest label) holds annotated voxels.
        missing: Numbers of the channels that are missing, which are 0.
    """

    case_id: str
    image: np.ndarray
    label: np.ndarray | None
    spatial: SpatialRecord
    foreground_locations: Mapping[LabelKey, np.ndarray] = field(default_factory=dict)
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PreprocessedSources:
    """A case in plan space that is prepared as it is read. See `PreprocessedCase`.

    Attributes:
        case_id: Name of the case.
        image: float32 (C, Z, Y, X), normalised. Read it in order along the first axis: slices that are read again
            soon are not made again.
        label: int16 (Z, Y, X) with -1 outside the non-zero mask; None for a case without a label.
        spatial: How it got here from image space.
        missing: Numbers of the channels that are missing, which are 0.
    """

    case_id: str
    image: VoxelSource
    label: LabelSource | None
    spatial: SpatialRecord
    missing: tuple[int, ...] = ()
