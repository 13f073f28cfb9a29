"""Measurements of a dataset, with nnU-Net v2's keys (recipe 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.names import shortened
from segflow.core.training_images import TRAINING_IMAGES, ImageFacts, TrainingImages

MEASURE_AGAIN = "Measure the dataset again: segflow plan dataset=… clean=true"


@dataclass(frozen=True, slots=True)
class ChannelIntensities:
    """Statistics of one channel's foreground intensities over all cases, in the image's own unit."""

    max: float
    mean: float
    median: float
    min: float
    percentile_00_5: float
    percentile_99_5: float
    std: float


@dataclass(frozen=True, slots=True)
class IntensitySample:
    """Intensities drawn from one channel's foreground. Equal ones are counted, which takes far less memory.

    Attributes:
        values: float32 (n,), distinct and ascending; n is 0 for a case without foreground.
        counts: int64 (n,), how often each was drawn.
    """

    values: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, slots=True)
class CaseMeasurement:
    """Measurements of one case.

    Attributes:
        case_id: Name of the case.
        shape_cropped: Voxels along z, y, x after cropping to non-zero, original axis order.
        spacing: mm along z, y, x, original axis order.
        relative_size: Voxels after cropping divided by voxels before.
        intensities: One sample per channel, which is empty if the channel is missing.
        facts: What a new image is compared with.
        absurd: Why the image's values cannot be measurements, in one clause; None if they can.
    """

    case_id: str
    shape_cropped: tuple[int, ...]
    spacing: tuple[float, ...]
    relative_size: float
    intensities: tuple[IntensitySample, ...]
    facts: ImageFacts
    absurd: str | None = None

    @property
    def has_foreground(self) -> bool:
        """Whether an intensity was drawn from the foreground of any channel."""
        return any(sample.counts.size for sample in self.intensities)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The measured dataset.

    Attributes:
        shapes_cropped: Voxels after cropping, one (z, y, x) per case, original axis order.
        spacings: mm, one (z, y, x) per case, original axis order.
        intensities: One entry per channel.
        median_relative_size: Median over cases of the share of voxels that cropping leaves.
        images: What new images are compared with at prediction; None in fingerprints of nnU-Net.
    """

    shapes_cropped: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...]
    intensities: tuple[ChannelIntensities, ...]
    median_relative_size: float
    images: TrainingImages | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of ``dataset_fingerprint.json``."""
        return {
            "foreground_intensity_properties_per_channel": intensities_to_json(self.intensities),
            "median_relative_size_after_cropping": self.median_relative_size,
            "shapes_after_crop": [list(shape) for shape in self.shapes_cropped],
            "spacings": [list(spacing) for spacing in self.spacings],
            **({} if self.images is None else {TRAINING_IMAGES: self.images.to_json()}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fingerprint:
        """Inverse of `to_json`.

        Raises:
            SegflowError: A key is missing, or a value cannot be used.
        """
        try:
            shapes, spacings = value["shapes_after_crop"], value["spacings"]
            relative = value["median_relative_size_after_cropping"]
            channels = value.get("foreground_intensity_properties_per_channel")
            if channels is None:  # the name that early 2.x releases gave it
                channels = value["foreground_intensity_properties_by_modality"]
        except KeyError as missing:
            raise SegflowError(
                f"the fingerprint has no key {missing}",
                found=sorted(value),
                fix=MEASURE_AGAIN,
            ) from None
        found = cls(
            shapes_cropped=tuple(tuple(int(n) for n in shape) for shape in shapes),
            spacings=tuple(tuple(float(s) for s in spacing) for spacing in spacings),
            intensities=intensities_from_json(channels),
            median_relative_size=float(relative),
            images=TrainingImages.from_json(value[TRAINING_IMAGES]) if TRAINING_IMAGES in value else None,
        )
        found._check()
        return found

    def _check(self) -> None:
        """Refuse shapes and spacings that no image has, before plans are made from them."""
        shapes_fit = all(len(shape) == 3 and 0 < min(shape) <= max(shape) < 2**31 for shape in self.shapes_cropped)
        spacings_fit = all(len(s) == 3 and all(0 < mm < math.inf for mm in s) for s in self.spacings)
        if not shapes_fit or not spacings_fit or len(self.shapes_cropped) != len(self.spacings):
            raise SegflowError(
                "'shapes_after_crop' and 'spacings' of the fingerprint must be three positive numbers for each case",
                found=f"{shortened(self.shapes_cropped)} and {shortened(self.spacings)}",
                fix=MEASURE_AGAIN,
            )


def intensities_to_json(intensities: Sequence[ChannelIntensities]) -> dict[str, dict[str, float]]:
    """One object per channel, keyed by the channel's number as text."""
    return {str(channel): asdict(statistics) for channel, statistics in enumerate(intensities)}


def intensities_from_json(value: Mapping[str, Mapping[str, float]]) -> tuple[ChannelIntensities, ...]:
    """Inverse of `intensities_to_json`."""
    names = ChannelIntensities.__slots__
    channels = sorted(value, key=int)
    return tuple(ChannelIntensities(**{name: float(value[c][name]) for name in names}) for c in channels)
