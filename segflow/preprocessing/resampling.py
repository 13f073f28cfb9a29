"""Resampling of images and label maps to another grid (recipe 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segflow.core.configuration_plan import ResamplingPlan
from segflow.core.errors import SegflowError
from segflow.core.geometry import ANISOTROPY_THRESHOLD
from segflow.execution.machine import granted_threads
from segflow.execution.threads import for_each
from segflow.preprocessing.interpolation import Band, axis_bands, nearest_indices
from segflow.preprocessing.label_resampling import TieRule, resize_label
from segflow.preprocessing.rescaling import range_of

SPLINE = "resample_data_or_seg_to_shape"
LINEAR = "resample_torch_fornnunet"
NONE = "no_resampling_hack"

_BANDS_AT_ONCE = 4
"""Each takes memory for its slices twice or thrice, so that many would take more than the result."""

Shape = Sequence[int]
Spacing = Sequence[float]


@dataclass(frozen=True, slots=True)
class Interpolation:
    """The interpolation that a plan's method and options mean.

    Attributes:
        order: Spline order within the slices, or along all axes if no axis is treated separately.
        order_through: Spline order along the separate axis.
        separate: The anisotropic axis that is treated separately, or None.
        clip: Clip results to the range of the source, since cubic splines overshoot.
        ties: Rule for labels with equal scores.
    """

    order: int
    order_through: int
    separate: int | None
    clip: bool
    ties: TieRule


def separate_axis(spacing: Spacing, new_spacing: Spacing, force: bool | None = None) -> int | None:
    """The axis along which slices are too far apart to interpolate between, or None (recipe 4.2).

    Args:
        spacing: mm before resampling.
        new_spacing: mm after resampling. It decides if ``spacing`` is not anisotropic.
        force: The plan's ``force_separate_z``; None leaves it to the spacings.
    """
    if force is False:
        return None
    for candidate in (spacing,) if force else (spacing, new_spacing):
        largest = max(candidate)
        if force or largest / min(candidate) > ANISOTROPY_THRESHOLD:
            axes = [axis for axis, value in enumerate(candidate) if value == largest]
            return axes[0] if len(axes) == 1 else None
    return None


def interpolation_of(plan: ResamplingPlan, spacing: Spacing, new_spacing: Spacing) -> Interpolation | None:
    """The plan's interpolation from one spacing to another, both mm along (z, y, x); None if it does not resample.

    Raises:
        SegflowError: The plan names a method that segflow does not have.
    """
    force = plan.options.get("force_separate_z")
    if plan.method == SPLINE:
        return Interpolation(
            order=int(plan.options.get("order", 3)),
            order_through=int(plan.options.get("order_z", 0)),
            separate=separate_axis(spacing, new_spacing, force),
            clip=True,
            ties=TieRule.NEAREST,
        )
    if plan.method == LINEAR:
        return Interpolation(1, 0, separate_axis(spacing, new_spacing, force), clip=False, ties=TieRule.LOWEST)
    if plan.method == NONE:
        return None
    raise SegflowError(
        "the plans name a resampling that segflow does not have", found=plan.method, expected=[SPLINE, LINEAR, NONE]
    )


def resample_image(
    image: np.ndarray, new_shape: Shape, spacing: Spacing, new_spacing: Spacing, plan: ResamplingPlan
) -> np.ndarray:
    """Resample every channel of an image.

    Args:
        image: float32 (C, Z, Y, X).
        new_shape: Voxels along z, y, x after resampling.
        spacing, new_spacing: mm before and after; they decide whether an axis is treated separately.
        plan: How to resample.

    Returns:
        float32 (C, *new_shape); the image itself if nothing changes.
    """
    interpolation = interpolation_of(plan, spacing, new_spacing)
    if interpolation is None or tuple(image.shape[1:]) == tuple(new_shape):
        return image
    check_shape(new_shape)
    result = np.empty((image.shape[0], *new_shape), np.float32)
    for source, target in zip(image, result, strict=True):
        if interpolation.separate is None:
            _resize_volume(source, target, interpolation)
        else:
            axis = interpolation.separate
            _resize_slices(np.moveaxis(source, axis, 0), np.moveaxis(target, axis, 0), interpolation)
    return result


def resample_label(
    label: np.ndarray, new_shape: Shape, spacing: Spacing, new_spacing: Spacing, plan: ResamplingPlan
) -> np.ndarray:
    """Resample a label map. Each voxel takes the label with the largest linearly interpolated indicator.

    Args:
        label: int (Z, Y, X), in which -1 is a label like any other.
        new_shape: Voxels along z, y, x after resampling.
        spacing, new_spacing: mm before and after.
        plan: How to resample.

    Returns:
        (\\*new_shape) of the label's type; the label itself if nothing changes.
    """
    interpolation = interpolation_of(plan, spacing, new_spacing)
    if interpolation is None or tuple(label.shape) == tuple(new_shape):
        return label
    check_shape(new_shape)
    check_label_order(interpolation, plan)
    return resize_label(label, tuple(new_shape), interpolation.order, interpolation.separate, interpolation.ties)


def check_label_order(interpolation: Interpolation, plan: ResamplingPlan) -> None:
    """Refuse an interpolation that segflow does not have for label maps.

    Raises:
        SegflowError: The plan asks for it.
    """
    if interpolation.order not in (0, 1) or (interpolation.separate is not None and interpolation.order_through != 0):
        raise SegflowError(
            "the plans ask for a label interpolation that segflow does not have",
            found=dict(plan.options),
            expected="order 0 or 1, order_z 0",
        )


def check_shape(new_shape: Shape) -> None:
    """Refuse a grid without voxels.

    Raises:
        SegflowError: It has none.
    """
    if min(new_shape) < 1:
        raise SegflowError(
            "nothing would be left after resampling",
            found=f"shape {tuple(new_shape)}",
            expected="at least one voxel along each axis",
            fix="The image is thinner than half a voxel of the plan's spacing; check its spacing.",
        )


def _resize_volume(source: np.ndarray, target: np.ndarray, interpolation: Interpolation) -> None:
    """Resize one channel in 3D, a few target slices at a time, so that intermediate results stay small."""
    source = np.ascontiguousarray(source, np.float32)
    limits = range_of(source) if interpolation.clip and interpolation.order > 1 else None
    flat = source.reshape(len(source), -1)

    def resize_band(band: Band) -> None:
        if len(source) == len(target):
            slices = source[band.rows]
        else:
            slices = (band.matrix @ flat[band.columns]).reshape(-1, *source.shape[1:])
        resize_in_plane(slices, target[band.rows], interpolation.order, limits)

    for_each(
        resize_band, axis_bands(len(source), len(target), interpolation.order), min(granted_threads(), _BANDS_AT_ONCE)
    )


def _resize_slices(source: np.ndarray, target: np.ndarray, interpolation: Interpolation) -> None:
    """Resize one channel slice by slice, then along the first axis."""
    order = interpolation.order

    def resize_slice(index: int, result: np.ndarray) -> None:
        slice_ = np.ascontiguousarray(source[index : index + 1], np.float32)
        resize_in_plane(slice_, result, order, range_of(slice_) if interpolation.clip and order > 1 else None)

    if interpolation.order_through == 0 or len(source) == len(target):
        chosen = nearest_indices(len(source), len(target))

        def fill_from(index: int) -> None:
            places = np.flatnonzero(chosen == index)
            resize_slice(index, target[places[0] : places[0] + 1])
            target[places[1:]] = target[places[0]]

        for_each(fill_from, [int(index) for index in np.unique(chosen)])
        return
    resized = np.empty((len(source), *target.shape[1:]), np.float32)
    for_each(lambda index: resize_slice(index, resized[index : index + 1]), range(len(source)))
    flat = resized.reshape(len(resized), -1)
    for band in axis_bands(len(source), len(target), interpolation.order_through):
        target[band.rows] = (band.matrix @ flat[band.columns]).reshape(-1, *target.shape[1:])


def resize_in_plane(source: np.ndarray, target: np.ndarray, order: int, limits: tuple[float, float] | None) -> None:
    """Resize (n, Y, X) to (n, Y', X') along its last two axes into ``target``, then clip.

    Args:
        source: float32 (n, Y, X).
        target: float32 (n, Y', X').
        order: Of the spline.
        limits: Lowest and highest value of the result; None does not clip.
    """
    (rows, columns), (new_rows, new_columns) = source.shape[1:], target.shape[1:]
    if new_rows != rows:
        between = np.empty((len(source), new_rows, columns), np.float32)
        for band in axis_bands(rows, new_rows, order):
            np.matmul(band.matrix, source[:, band.columns], out=between[:, band.rows])
        source = between
    if new_columns != columns:
        between = np.empty((len(source) * new_rows, new_columns), np.float32)
        lines = source.reshape(-1, columns)
        for band in axis_bands(columns, new_columns, order):
            np.matmul(lines[:, band.columns], band.matrix.T, out=between[:, band.rows])
        source = between.reshape(target.shape)
    if limits is None:
        target[...] = source
    else:
        np.clip(source, *limits, out=target)
