"""Signed distances to the surfaces of labels, for losses that weigh voxels by them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from segflow.core.errors import SegflowError
from segflow.core.labels import OUTSIDE, Labels

UNITS = ("voxels", "mm")


class DistanceMaps:
    """Makes the distance maps of label maps on the CPU, one thread.

    A voxel outside an object has the distance to the nearest voxel within; a voxel within has minus the distance to the
    nearest voxel outside. Voxels of the ignore label are neither, and have 0. An object that is absent, or that fills
    the map, has no surface: its map is 0.

    Args:
        labels: The label definition. There is a map for each foreground label, or for each region.
        spacing: Millimetres between voxels along the axes of the map; None measures in voxels.
    """

    def __init__(self, labels: Labels, spacing: Sequence[float] | None = None) -> None:
        self._objects = labels.regions if labels.has_regions else tuple((k,) for k in labels.foreground_labels)
        self._ignored = labels.ignore_label
        self._spacing = None if spacing is None else tuple(float(value) for value in spacing)

    def __len__(self) -> int:
        """Maps of a sample."""
        return len(self._objects)

    def __call__(self, label: Tensor) -> Tensor:
        """Label map (B, 1, *spatial) of any integer type → float32 (B, F, *spatial)."""
        values = label[:, 0].cpu().numpy()
        result = np.zeros((len(values), len(self), *values.shape[1:]), np.float32)
        for sample, maps in zip(values, result, strict=True):
            ignored = None if self._ignored is None else sample == self._ignored
            present = {int(value) for value in np.unique(sample)} - {OUTSIDE, 0}
            for wanted, one in zip(self._objects, maps, strict=True):
                if not present.isdisjoint(wanted):
                    inside = np.isin(sample, wanted) if len(wanted) > 1 else sample == wanted[0]
                    _write_distances(inside, ignored, self._spacing, one)
        return torch.from_numpy(result)


def distance_unit_of(loss: object) -> str | None:
    """The unit of the distance maps that a loss asks for by its attribute ``distance_unit``; None if it needs none.

    Raises:
        SegflowError: It is no unit.
    """
    unit = getattr(loss, "distance_unit", None)
    if unit is None or unit in UNITS:
        return unit
    raise SegflowError("loss: distance_unit is unknown", found=unit, expected=" or ".join(UNITS))


def _write_distances(
    inside: np.ndarray, ignored: np.ndarray | None, spacing: tuple[float, ...] | None, result: np.ndarray
) -> None:
    """Write the signed distances of an object into ``result``, which is 0."""
    outside = ~inside if ignored is None else ~(inside | ignored)
    if not outside.any():
        return
    np.copyto(result, _distance_to(inside, spacing), where=outside)
    # The nearest voxel outside lies in a box around the object, which is small, unless some are ignored.
    box = (slice(None),) * inside.ndim if ignored is not None and ignored.any() else _box_around(inside)
    np.copyto(result[box], -_distance_to(outside[box], spacing), where=inside[box])


def _box_around(inside: np.ndarray) -> tuple[slice, ...]:
    """The object's bounding box and one voxel more on each side, within the map."""
    axes = range(inside.ndim)
    profiles = (inside.any(axis=tuple(other for other in axes if other != axis)) for axis in axes)
    found = (np.flatnonzero(profile) for profile in profiles)
    return tuple(slice(max(0, int(where[0]) - 1), int(where[-1]) + 2) for where in found)


def _distance_to(mask: np.ndarray, spacing: tuple[float, ...] | None) -> np.ndarray:
    """Distance of each voxel to the nearest one of the mask, where the mask is False."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    if spacing is not None:
        image.SetSpacing(spacing[::-1])
    transform = sitk.SignedMaurerDistanceMapImageFilter()
    transform.SetSquaredDistance(False)
    transform.SetUseImageSpacing(True)
    transform.SetInsideIsPositive(False)
    transform.SetNumberOfThreads(1)
    distances: np.ndarray = sitk.GetArrayFromImage(transform.Execute(image))
    return distances
