"""A case that is transposed, cropped and normalised as it is read, box by box. All configurations start from it.

Statistics come from a first reading of the image, slab by slab. Every value equals that of `normalize_case`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segflow.core.case import OpenCase
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry, permute
from segflow.core.image_look import SLAB_VALUES, ImageLook, look_at
from segflow.core.labels import OUTSIDE
from segflow.core.plans import Plans
from segflow.core.voxels import LabelSource, VoxelSource, boxes_in_order
from segflow.preprocessing.inside_mask import InsideMask
from segflow.preprocessing.normalization import Z_SCORE, check_range, find_rescalings
from segflow.preprocessing.own_normalizations import Normalizations, check_planned
from segflow.preprocessing.preprocess_case import check_fits, normalization_of
from segflow.preprocessing.rescaling import UNCHANGED, Range, Rescaling, range_of
from segflow.preprocessing.turned_source import TurnedImage, TurnedLabel


@dataclass(frozen=True, slots=True)
class NormalizedSources:
    """A case in plan axes, cropped and normalised as it is read, but not resampled. See `NormalizedCase`.

    Attributes:
        case_id: Name of the case.
        image: float32 (C, Z, Y, X).
        label: int16 (Z, Y, X) with -1 outside the non-zero mask, or None.
        limits: Lowest and highest value of each channel.
        geometry: Geometry of the image.
        shape_original: Voxels as read, original axes.
        axis_order: Permutation to plan axes.
        crop: Box of the sources in the transposed image.
        missing: Numbers of the channels that are missing, which are 0.
    """

    case_id: str
    image: VoxelSource
    label: LabelSource | None
    limits: tuple[Range, ...]
    geometry: Geometry
    shape_original: tuple[int, ...]
    axis_order: tuple[int, ...]
    crop: Box
    missing: tuple[int, ...] = ()


def normalize_as_read(
    case: OpenCase,
    plans: Plans,
    plan: ConfigurationPlan,
    *,
    look: ImageLook | None = None,
    normalizations: Normalizations | None = None,
    scratch: Path | None = None,
) -> NormalizedSources:
    """Transpose, crop and normalise a case as it is read.

    The image is read once for its box and its range, once where a hole may have to be filled, and twice for z-scores.

    Args:
        case: The case.
        plans: For axis order and foreground intensities.
        plan: The configuration.
        look: What `look_at` found, if that is known.
        normalizations: The user's own normalisations. They need the whole image and are refused.
        scratch: Folder for a file of one bit per voxel, if that exceeds 64 MB.

    Raises:
        SegflowError: The case does not suit the plan, or cannot be prepared in parts. The error names it.
    """
    schemes = normalization_of(plan)
    check_planned(plans, plan, normalizations or {})
    label_shape = None if case.label is None else case.label.shape
    check_fits(case.image.shape, label_shape, case.geometry, len(schemes), case.case_id)
    axes = plans.axis_order
    look = look_at(case.image) if look is None else look
    crop = Box(permute(look.box.start, axes), permute(look.box.stop, axes))
    image = TurnedImage(case.image, axes, crop)
    label = None if case.label is None else TurnedLabel(case.label, axes, crop)
    try:
        refuse_own(schemes, normalizations or {}, image.shape)
        for channel in look.channels:
            check_range((channel.low, channel.high))
        inside = None
        masked = tuple(use_mask and scheme == Z_SCORE for scheme, use_mask in schemes)
        if look.has_zeros and (label is not None or any(masked)):
            inside = InsideMask(image, most_values=SLAB_VALUES, scratch=scratch)
        marked = None if label is None else _MarkedLabel(label, inside)
        voxels = _Voxels(image, masked, None if inside is None else _Inside(inside, label))
        rescalings, limits = _normalisation(voxels, look, [scheme for scheme, _ in schemes], plans, case.missing)
    except SegflowError as error:
        raise error.of_case(case.case_id) from error
    return NormalizedSources(
        case_id=case.case_id,
        image=_Normalized(voxels, rescalings),
        label=marked,
        limits=limits,
        geometry=case.geometry,
        shape_original=tuple(case.image.shape[1:]),
        axis_order=tuple(axes),
        crop=crop,
        missing=case.missing,
    )


def refuse_own(schemes: Sequence[tuple[str, bool]], own: Normalizations, shape: Sequence[int]) -> None:
    """Refuse normalisations of the user's own, which need the whole image.

    Raises:
        SegflowError: There is one. The error says how much memory the case would need.
    """
    if named := [scheme for scheme, _ in schemes if scheme in own]:
        raise SegflowError(
            f"{own[named[0]].setting}: a normalisation of one's own needs the whole image in memory",
            found=f"{list(shape)} voxels, about {3 * 4 * math.prod(shape) / 2**30:.1f} GiB",
            fix="Give it that much memory, or plan without it.",
        )


class _Inside:
    """The voxels that statistics within the mask come from: those of the filled mask, and those with a label."""

    def __init__(self, mask: InsideMask, label: LabelSource | None) -> None:
        self._mask = mask
        self._label = label

    def read(self, box: Box) -> np.ndarray:
        inside = self._mask.read(box)
        return inside if self._label is None else inside | (self._label.read(box) != 0)


class _Voxels:
    """The values of an image, and the voxels of each channel that are normalised.

    Args:
        image: In plan axes, cropped.
        masked: Whether a channel is normalised within the mask only.
        inside: The mask; None if it holds all voxels.
    """

    def __init__(self, image: VoxelSource, masked: Sequence[bool], inside: _Inside | None) -> None:
        self.image = image
        self.masked = tuple(masked) if inside is not None else (False,) * len(masked)
        self._inside = inside

    def read(self, box: Box) -> tuple[np.ndarray, np.ndarray | None]:
        """Values (C, \\*box.shape), and the mask if a channel needs it."""
        values = self.image.read(box)
        return values, self._inside.read(box) if self._inside is not None and any(self.masked) else None

    def blocks(self) -> Iterator[list[np.ndarray]]:
        """The values that are normalised, see `normalization.Blocks`."""
        for values, inside in self._all():
            yield [
                own[inside] if masked and inside is not None else own.reshape(-1)
                for own, masked in zip(values, self.masked, strict=True)
            ]

    def ranges(self, look: ImageLook) -> tuple[list[Range | None], list[Range | None]]:
        """Range of each channel's voxels that are normalised, and of the others; None where there are none."""
        size = math.prod(self.image.shape[1:])
        within: list[Range | None] = [channel.range_within(size) for channel in look.channels]
        beyond: list[Range | None] = [None] * len(within)
        if not any(self.masked):
            return within, beyond
        found: list[tuple[Range | None, Range | None]] = [(None, None)] * len(within)
        for values, inside in self._all():
            for number, own in enumerate(values):
                if self.masked[number] and inside is not None:
                    here, there = found[number]
                    found[number] = _united(here, own[inside]), _united(there, own[~inside])
        for number, masked in enumerate(self.masked):
            if masked:
                within[number], beyond[number] = found[number]
        return within, beyond

    def _all(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        shape = self.image.shape
        for box in boxes_in_order(shape[1:], SLAB_VALUES // shape[0]):
            yield self.read(box)


def _united(known: Range | None, values: np.ndarray) -> Range | None:
    if not values.size:
        return known
    low, high = range_of(values)
    return (low, high) if known is None else (min(known[0], low), max(known[1], high))


def _normalisation(
    voxels: _Voxels, look: ImageLook, schemes: Sequence[str], plans: Plans, missing: Sequence[int]
) -> tuple[list[Rescaling], tuple[Range, ...]]:
    """The normalisation of each channel, and the range of its values afterwards."""
    within, beyond = voxels.ranges(look)
    statistics = [plans.intensities[n] if n < len(plans.intensities) else None for n in range(len(schemes))]
    known = [limits or (0.0, 0.0) for limits in within]
    found = find_rescalings(schemes, statistics, known, voxels.blocks)
    result = [
        UNCHANGED if limits is None or number in missing else own
        for number, (own, limits) in enumerate(zip(found, within, strict=True))
    ]
    ranges = []
    for own, here, there in zip(result, within, beyond, strict=True):
        parts = [own.apply_to_range(here)] if here is not None else []
        parts += [there] if there is not None else []
        ranges.append((min(low for low, _ in parts), max(high for _, high in parts)))
    return result, tuple(ranges)


class _Normalized:
    """The normalised image. A `VoxelSource`."""

    def __init__(self, voxels: _Voxels, rescalings: Sequence[Rescaling]) -> None:
        self._voxels = voxels
        self._rescalings = rescalings

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self._voxels.image.shape

    def read(self, box: Box) -> np.ndarray:
        values, inside = self._voxels.read(box)
        for own, rescaling, masked in zip(values, self._rescalings, self._voxels.masked, strict=True):
            if masked and inside is not None:
                part = own[inside]
                rescaling.apply(part)
                own[inside] = part
            else:
                rescaling.apply(own)
        return values


class _MarkedLabel:
    """The label map, with -1 where it is 0 outside the mask. A `LabelSource`."""

    def __init__(self, label: LabelSource, inside: InsideMask | None) -> None:
        self._label = label
        self._inside = inside

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._label.shape

    def read(self, box: Box) -> np.ndarray:
        label = self._label.read(box).astype(np.int16, copy=False)
        if self._inside is not None:
            label[~self._inside.read(box) & (label == 0)] = OUTSIDE
        return label
