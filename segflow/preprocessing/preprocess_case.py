"""From image space to plan space: transpose, crop, normalise, resample (recipe 4.1). `restore` leads back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from segflow.core.case import Case
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.cropping import crop_to_nonzero
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities
from segflow.core.geometry import Box, Geometry, permute, resampled_shape
from segflow.core.labels import LabelKey, Labels
from segflow.core.plans import Plans
from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
from segflow.execution.machine import check_room
from segflow.execution.threads import meanwhile
from segflow.preprocessing.foreground import draw_foreground_locations, location_keys
from segflow.preprocessing.normalization import check_finite, normalize
from segflow.preprocessing.own_normalizations import Normalizations, check_planned, normalize_by_own
from segflow.preprocessing.resampling import check_shape, interpolation_of, resample_image, resample_label

_LARGE = 1 << 20
"""Values of an image from which on its label is resampled beside it."""


@dataclass(frozen=True, slots=True)
class NormalizedCase:
    """A case in plan axes, cropped and normalised but not resampled. All configurations start from it.

    Attributes:
        case_id: Name of the case.
        image: float32 (C, Z, Y, X).
        label: int16 (Z, Y, X) with -1 outside the non-zero mask, or None for a case without a reference.
        geometry: Geometry of the image.
        shape_original: Voxels as read, original axes.
        axis_order: Permutation to plan axes.
        crop: Box of the arrays in the transposed image.
        normalized_by: Scheme and mask rule of each channel.
        missing: Numbers of the channels that are missing, which are 0.
    """

    case_id: str
    image: np.ndarray
    label: np.ndarray | None
    geometry: Geometry
    shape_original: tuple[int, ...]
    axis_order: tuple[int, ...]
    crop: Box
    normalized_by: tuple[tuple[str, bool], ...]
    missing: tuple[int, ...] = ()


def preprocess_case(
    case: Case,
    plans: Plans,
    plan: ConfigurationPlan,
    labels: Labels,
    *,
    normalizations: Normalizations | None = None,
    may_overwrite: bool = False,
) -> PreprocessedCase:
    """Bring a case into the space of a configuration.

    Args:
        case: The case as read.
        plans: For axis order and foreground intensities.
        plan: The configuration.
        labels: For the foreground locations.
        normalizations: The user's own normalisations.
        may_overwrite: Whether the case's arrays may be used as working memory, and so be lost.

    Raises:
        SegflowError: The case does not suit the plan. The error names it.
    """
    normalized = normalize_case(case, plans, plan, normalizations=normalizations, may_overwrite=may_overwrite)
    return to_plan_space(normalized, plan, labels)


def normalization_of(plan: ConfigurationPlan) -> tuple[tuple[str, bool], ...]:
    """Scheme and mask rule of each channel. Configurations with equal ones can share a `NormalizedCase`."""
    return tuple(zip(plan.normalization_schemes, plan.use_mask_for_norm, strict=True))


def normalize_case(
    case: Case,
    plans: Plans,
    plan: ConfigurationPlan,
    *,
    normalizations: Normalizations | None = None,
    may_overwrite: bool = False,
) -> NormalizedCase:
    """Transpose, crop to non-zero and normalise: the steps before resampling.

    Raises:
        SegflowError: The case does not suit the plan. The error names it.
    """
    schemes, own = normalization_of(plan), normalizations or {}
    check_planned(plans, plan, own)
    label_shape = None if case.label is None else case.label.shape
    check_fits(case.image.shape, label_shape, case.geometry, len(schemes), case.case_id)
    axis_order = plans.axis_order
    image = case.image.transpose(0, *(axis + 1 for axis in axis_order))
    label = None if case.label is None else case.label.transpose(axis_order)
    image, marked, crop = crop_to_nonzero(image, label, may_overwrite=may_overwrite)
    if may_overwrite:
        image = np.ascontiguousarray(image, np.float32)
    else:
        image = np.array(image, np.float32, order="C")
    try:
        _normalize_channels(image, marked, schemes, plans.intensities, own, missing=case.missing)
    except SegflowError as error:
        raise error.of_case(case.case_id) from error
    return NormalizedCase(
        case_id=case.case_id,
        image=image,
        label=None if label is None else marked.astype(np.int16, copy=False),
        geometry=case.geometry,
        shape_original=tuple(case.image.shape[1:]),
        axis_order=axis_order,
        crop=crop,
        normalized_by=schemes,
        missing=case.missing,
    )


def to_plan_space(case: NormalizedCase, plan: ConfigurationPlan, labels: Labels) -> PreprocessedCase:
    """Resample to the configuration's spacing and draw foreground locations.

    Raises:
        SegflowError: No voxels would be left after resampling. The error names the case.
    """
    try:
        spatial = place_in_plan(case.geometry, case.shape_original, case.axis_order, case.crop, plan)
        shape, spacings = spatial.shape_plan, (spatial.spacing_transposed, spatial.spacing_plan)
        check_room(
            4 * len(case.image) * math.prod(shape),
            "the case after resampling",
            found=f"{list(shape)} voxels: {list(case.crop.shape)} of {_mm(spacings[0])} at {_mm(spacings[1])}",
        )
        place_label = partial(_label_in_plan_space, case.label, spatial, plan, labels)
        with meanwhile(place_label, None if case.image.size > _LARGE else 1) as placed_label:
            image = resample_image(case.image, shape, *spacings, plan.resampling_image)
        label, locations = placed_label()
    except SegflowError as error:
        raise error.of_case(case.case_id) from error
    return PreprocessedCase(case.case_id, image, label, spatial, locations, case.missing)


def _label_in_plan_space(
    label: np.ndarray | None, spatial: SpatialRecord, plan: ConfigurationPlan, labels: Labels
) -> tuple[np.ndarray | None, dict[LabelKey, np.ndarray]]:
    """Label map and foreground locations of a case after resampling."""
    if label is None:
        return None, {}
    spacings = spatial.spacing_transposed, spatial.spacing_plan
    result = resample_label(label, spatial.shape_plan, *spacings, plan.resampling_label)
    return result, draw_foreground_locations(result, location_keys(labels))


def place_in_plan(
    geometry: Geometry, shape_original: Sequence[int], axis_order: Sequence[int], crop: Box, plan: ConfigurationPlan
) -> SpatialRecord:
    """The grid of an image in plan space.

    Args:
        geometry: Of the image.
        shape_original: Voxels as read, original axes.
        axis_order: Permutation to plan axes.
        crop: Box of the image that is kept, plan axes.
        plan: The configuration.

    Raises:
        SegflowError: No voxels would be left after resampling.
    """
    spacing = permute(geometry.spacing, axis_order)
    spacing_plan = spacing_in_plan(plan, spacing)
    shape = resampled_shape(crop.shape, spacing, spacing_plan)
    if interpolation_of(plan.resampling_image, spacing, spacing_plan) is None:
        shape = crop.shape
    check_shape(shape)
    return SpatialRecord(
        geometry=geometry,
        shape_original=tuple(shape_original),
        axis_order=tuple(axis_order),
        crop=crop,
        spacing_transposed=spacing,
        spacing_plan=spacing_plan,
        shape_plan=shape,
    )


def spacing_in_plan(plan: ConfigurationPlan, spacing: Sequence[float]) -> tuple[float, ...]:
    """The spacing after resampling; a 2D configuration keeps the case's own first entry (recipe 4.1).

    Args:
        plan: The configuration.
        spacing: Spacing of the case, mm in plan axes (z, y, x).
    """
    return plan.spacing if len(plan.spacing) == len(spacing) else (float(spacing[0]), *plan.spacing)


def _mm(spacing: Sequence[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in spacing) + " mm"


def check_fits(
    shape: Sequence[int], label_shape: Sequence[int] | None, geometry: Geometry, channels: int, case_id: str
) -> None:
    """Refuse a case that does not suit its plans.

    Args:
        shape: Of the image, (C, Z, Y, X).
        label_shape: Of the label map, (Z, Y, X), if there is one.
        geometry: Of the image.
        channels: Number of channels that the plans have.
        case_id: Named in the error.

    Raises:
        SegflowError: The case does not suit them.
    """
    if shape[0] != channels:
        raise SegflowError(
            "the image has another number of channels than the plans", case=case_id, found=shape[0], expected=channels
        )
    if label_shape is not None and tuple(label_shape) != tuple(shape[1:]):
        raise SegflowError(
            "image and label differ in shape",
            case=case_id,
            found=f"image {tuple(shape[1:])}, label {tuple(label_shape)}",
        )
    if not all(np.isfinite(geometry.spacing)) or min(geometry.spacing) <= 0:
        raise SegflowError("spacing must be positive", case=case_id, found=geometry.spacing)


def _normalize_channels(
    image: np.ndarray,
    marked: np.ndarray,
    schemes: Sequence[tuple[str, bool]],
    intensities: Sequence[ChannelIntensities],
    own: Normalizations,
    *,
    missing: Sequence[int],
) -> None:
    inside = marked >= 0 if any(use_mask for _, use_mask in schemes) else None
    for number, (channel, (scheme, use_mask)) in enumerate(zip(image, schemes, strict=True)):
        if number in missing:
            continue  # it stays 0
        statistics = intensities[number] if number < len(intensities) else None
        if scheme in own:
            check_finite(channel)
            normalize_by_own(channel, own[scheme], statistics)
        else:
            normalize(channel, scheme, inside if use_mask else None, statistics)
