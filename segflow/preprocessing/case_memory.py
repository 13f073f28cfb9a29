"""Memory that preparing a case takes at its peak, computed from its header, beside Python and libraries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.geometry import permute, resampled_shape
from segflow.core.image_look import SLAB_VALUES
from segflow.core.plans import Plans
from segflow.preprocessing.foreground import LARGEST_SHUFFLE
from segflow.preprocessing.interpolation import axis_bands
from segflow.preprocessing.preprocess_case import spacing_in_plan
from segflow.preprocessing.resampling import Interpolation, interpolation_of
from segflow.preprocessing.streamed import MEMORY, along_first
from segflow.storage.array_writer import IN_MEMORY
from segflow.storage.image_formats.contract import ImageHeader


@dataclass(frozen=True, slots=True)
class CaseNeed:
    """Memory for one case and its configurations, one after the other.

    Attributes:
        whole: Bytes for preparing it as a whole.
        in_parts: Bytes for preparing it slab by slab; None if its resampling needs the whole image.
        sizes: What they follow from, for a refusal.
    """

    whole: int
    in_parts: int | None
    sizes: str


def need_of(header: ImageHeader, files: int, plans: Plans, configurations: Sequence[ConfigurationPlan]) -> CaseNeed:
    """The memory that a case needs.

    As a whole, first come the image as read and its normalised copy, with label, marked label and mask. Then come image
    and label on their own grid, with the result of one configuration at a time.

    Args:
        header: Of the case's first image.
        files: Number of its images.
        plans: For the axis order.
        configurations: Those whose arrays are to be made.

    Raises:
        SegflowError: The spacing cannot be resampled.
    """
    channels = header.channels if files == 1 else files
    spacing = permute(header.geometry.spacing, plans.axis_order)
    shape = permute(header.shape, plans.axis_order)
    voxels = _count(shape)
    results = [resampled_shape(shape, spacing, spacing_in_plan(plan, spacing)) for plan in configurations]
    before = (2 * 4 * channels + 6) * voxels
    after = (4 * channels + 2) * voxels + (4 * channels + 4) * max(map(_count, results))
    parts: int | None = 0
    for plan, result in zip(configurations, results, strict=True):
        try:
            own = _in_parts(shape, result, spacing, plan, channels)
        except SegflowError:
            parts = None
            break
        parts = max(parts or 0, own)
    sizes = f"{' × '.join(map(str, header.shape))} voxels" + (f", {channels} channels" if channels > 1 else "")
    return CaseNeed(max(before, after), parts, sizes)


def _in_parts(
    shape: Sequence[int], result: Sequence[int], spacing: Sequence[float], plan: ConfigurationPlan, channels: int
) -> int:
    """Bytes for one configuration slab by slab.

    Raises:
        SegflowError: Its resampling needs the whole image.
    """
    how = interpolation_of(plan.resampling_image, spacing, spacing_in_plan(plan, spacing))
    plane, new_plane = _count(shape[1:]), _count(result[1:])
    reading = 4 * 4 * SLAB_VALUES + 16 * plane  # values as stored, as read, in order, and the mask; holes of a slice
    writing = 2 * IN_MEMORY + 4 * 4 * channels * new_plane
    draw = 4 * min(_count(result), LARGEST_SHUFFLE)
    if how is None or tuple(result) == tuple(shape):
        return max(reading + writing, draw + reading)
    along_first(how)
    return max(reading, writing + _resampling(how, shape, result, channels), draw + reading)


def _resampling(how: Interpolation, shape: Sequence[int], result: Sequence[int], channels: int) -> int:
    plane, new_plane = _count(shape[1:]), _count(result[1:])
    through = how.order if how.separate is None else max(how.order_through, 1)
    widest: int = max(band.matrix.shape[1] for band in axis_bands(shape[0], max(1, result[0]), through))
    slices = max(2, min(32, MEMORY // (8 * channels * new_plane)))
    made = 4 * channels * slices * (2 * plane + 4 * new_plane)
    return MEMORY + made + 4 * channels * widest * max(1, plane // 64)


def _count(shape: Sequence[int]) -> int:
    return int(math.prod(max(1, int(n)) for n in shape))
