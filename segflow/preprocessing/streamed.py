"""From image space to plan space for images that do not fit into memory: voxels are prepared as they are read."""

from __future__ import annotations

from pathlib import Path

from segflow.core.case import OpenCase
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.image_look import ImageLook
from segflow.core.plans import Plans
from segflow.core.preprocessed_case import PreprocessedSources
from segflow.preprocessing.normalized_source import NormalizedSources, normalize_as_read
from segflow.preprocessing.own_normalizations import Normalizations
from segflow.preprocessing.preprocess_case import place_in_plan
from segflow.preprocessing.resampled_source import ResampledImage, ResampledLabel
from segflow.preprocessing.resampling import Interpolation, check_label_order, interpolation_of

MEMORY = 1 << 28
"""Bytes that a source in plan space uses for slices, as far as a few of them fit."""


def open_in_plan_space(
    case: OpenCase,
    plans: Plans,
    plan: ConfigurationPlan,
    *,
    look: ImageLook | None = None,
    normalizations: Normalizations | None = None,
    memory: int = MEMORY,
    scratch: Path | None = None,
) -> PreprocessedSources:
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


def resample_as_read(case: NormalizedSources, plan: ConfigurationPlan, *, memory: int = MEMORY) -> PreprocessedSources:
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
            image = ResampledImage(image, spatial.shape_plan, along_first(how), case.limits, memory)
        how = interpolation_of(plan.resampling_label, *spacings)
        if label is not None and how is not None and label.shape != spatial.shape_plan:
            check_label_order(how, plan.resampling_label)
            label = ResampledLabel(label, spatial.shape_plan, along_first(how), memory)
    except SegflowError as error:
        raise error.of_case(case.case_id) from error
    return PreprocessedSources(case.case_id, image, label, spatial, case.missing)


def along_first(interpolation: Interpolation) -> Interpolation:
    """The interpolation itself, if its slices lie along the first axis, in which images are read.

    Raises:
        SegflowError: They lie across it, so that resampling needs the whole image.
    """
    if interpolation.separate in (None, 0):
        return interpolation
    raise SegflowError(
        "the case cannot be resampled in parts, since its slices lie along another axis than those of most images",
        found=f"the largest spacing along axis {interpolation.separate} of the plans' axes",
        fix="It needs a machine on which it fits into memory.",
    )
