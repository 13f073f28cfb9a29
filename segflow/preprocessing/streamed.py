"""From image space to plan space for images that do not fit into memory: voxels are prepared as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.image_look import ImageLook
from segflow.core.plans import Plans
from segflow.core.preprocessed_case import SpatialRecord
from segflow.core.voxels import LabelSource, VoxelSource
from segflow.preprocessing.normalized_source import NormalizedSources, OpenCase, normalize_as_read
from segflow.preprocessing.own_normalizations import Normalizations
from segflow.preprocessing.preprocess_case import place_in_plan
from segflow.preprocessing.resampled_source import ResampledImage, ResampledLabel
from segflow.preprocessing.resampling import Interpolation, check_label_order, interpolation_of

MEMORY = 1 << 28
"""Bytes that a source in plan space uses for slices, as far as a few of them fit."""


@dataclass(frozen=True, slots=True)
class StreamedCase:
    """A case in plan space that is prepared as it is read. See `PreprocessedCase`.

    Attributes:
        case_id: Name of the case.
        image: float32 (C, Z, Y, X), normalised. Read it in order along the first axis: slices that are read again
            soon are not made again.
        label: int16 (Z, Y, X) with -1 outside the non-zero mask; None for a case without a label.
        spatial: How it got here from image space.
    """

    case_id: str
    image: VoxelSource
    label: LabelSource | None
    spatial: SpatialRecord


def open_in_plan_space(
    case: OpenCase,
    plans: Plans,
    plan: ConfigurationPlan,
    *,
    look: ImageLook | None = None,
    normalizations: Normalizations | None = None,
    memory: int = MEMORY,
    scratch: Path | None = None,
) -> StreamedCase:
    """Bring a case into the space of a configuration, as it is read. Voxels equal those of `preprocess_case`.

    No more than some slabs of the image are in memory. One bit per voxel is kept, in a file if it is large, where the
    image has voxels that are zero in every channel and there is a label or a normalisation within the mask.

    Args:
        case: The case. For a cascade, its label is the previous stage's label map in image space.
        plans: For axis order and foreground intensities.
        plan: The configuration.
        look: What `look_at` found, if that is known.
        normalizations: The user's own normalisations. They need the whole image and are refused.
        memory: Bytes for slices, as far as a few of them fit.
        scratch: Folder for a file of one bit per voxel, if that exceeds 64 MB; None takes the system's for temporary
            files.

    Raises:
        SegflowError: The case does not suit the plan, or cannot be prepared in parts. The error names it.
    """
    normalized = normalize_as_read(case, plans, plan, look=look, normalizations=normalizations, scratch=scratch)
    return resample_as_read(normalized, plan, memory=memory)


def resample_as_read(case: NormalizedSources, plan: ConfigurationPlan, *, memory: int = MEMORY) -> StreamedCase:
    """Resample a normalised case to the configuration's spacing, as it is read.

    Raises:
        SegflowError: No voxels would be left after resampling, or the case cannot be resampled in parts. The error
            names it.
    """
    try:
        spatial = place_in_plan(case.geometry, case.shape_original, case.axis_order, case.crop, plan)
        spacings = spatial.spacing_transposed, spatial.spacing_plan
        image, label = case.image, case.label
        how = interpolation_of(plan.resampling_image, *spacings)
        if how is not None and image.shape[1:] != spatial.shape_plan:
            image = ResampledImage(image, spatial.shape_plan, _along_first(how), case.limits, memory)
        how = interpolation_of(plan.resampling_label, *spacings)
        if label is not None and how is not None and label.shape != spatial.shape_plan:
            check_label_order(how, plan.resampling_label)
            label = ResampledLabel(label, spatial.shape_plan, _along_first(how), memory)
    except SegflowError as error:
        raise error.of_case(case.case_id) from error
    return StreamedCase(case.case_id, image, label, spatial)


def _along_first(interpolation: Interpolation) -> Interpolation:
    """Refuse slices that lie across the direction in which images are read."""
    if interpolation.separate in (None, 0):
        return interpolation
    raise SegflowError(
        "the case cannot be resampled in parts, since its slices lie along another axis than those of most images",
        found=f"the largest spacing along axis {interpolation.separate} of the plans' axes",
        fix="It needs a machine on which it fits into memory.",
    )
