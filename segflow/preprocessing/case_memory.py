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
from segflow.preprocessing.inside_mask import MOST_BITS_BYTES
from segflow.preprocessing.interpolation import BAND_ROWS, axis_bands
from segflow.preprocessing.preprocess_case import spacing_in_plan
from segflow.preprocessing.resampled_source import FEWEST_COLUMNS, fewest_slices
from segflow.preprocessing.resampling import Interpolation, interpolation_of
from segflow.preprocessing.streamed import MEMORY, along_first
from segflow.storage.array_writer import AT_ONCE, waiting_bytes
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

    As a whole, first come the image as read and its normalised copy, with label, marked label and mask, and the values
    within it. Then come image and label on their own grid, with the result of one configuration at a time.

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
    masked = any(use_mask for plan in configurations for use_mask in plan.use_mask_for_norm)
    before = (2 * 4 * channels + 6 + (5 if masked else 0)) * voxels
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
    """Bytes for one configuration slab by slab: for statistics and mask, for writing, and for the foreground locations.

    Raises:
        SegflowError: Its resampling needs the whole image.
    """
    how = interpolation_of(plan.resampling_image, spacing, spacing_in_plan(plan, spacing))
    reading = 4 * 4 * SLAB_VALUES + 16 * _count(shape[1:])  # values as stored, as read, and in order; holes of a slice
    made = 4 * 4 * AT_ONCE
    if how is not None and tuple(result) != tuple(shape):
        along_first(how)
        made = _resampling(how, shape, result, channels)
    bits = min(_count(shape) // 8, MOST_BITS_BYTES)
    draw = 5 * min(_count(result), LARGEST_SHUFFLE) + 8 * SLAB_VALUES
    return max(reading + bits, made + bits + waiting_bytes((channels, *result), plan.patch_size), draw)


def _resampling(how: Interpolation, shape: Sequence[int], result: Sequence[int], channels: int) -> int:
    """Bytes for slices on the old and the new grid, and for what they are made from."""
    plane, new_plane = _count(shape[1:]), _count(result[1:])
    through = how.order if how.separate is None else max(how.order_through, 1)
    widest: int = max(band.matrix.shape[1] for band in axis_bands(shape[0], max(1, result[0]), through))
    fewest = fewest_slices(max(1, result[1]))
    slices = max(fewest, min(BAND_ROWS, MEMORY // (8 * channels * new_plane)))
    source = max(MEMORY // 2, 8 * channels * widest * FEWEST_COLUMNS)
    return source + 4 * channels * slices * (plane + 3 * new_plane) + 8 * min(fewest, slices) * max(plane, new_plane)


def _count(shape: Sequence[int]) -> int:
    return int(math.prod(max(1, int(n)) for n in shape))
