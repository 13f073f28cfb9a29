"""Measuring cases, and summarising them as a fingerprint (recipe 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segflow.core.case import Case, OpenCase
from segflow.core.cropping import crop_to_nonzero
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import CaseMeasurement, ChannelIntensities, Fingerprint, IntensitySample
from segflow.core.geometry import Box, Geometry
from segflow.core.image_look import SLAB_VALUES, look_at
from segflow.core.intensities import absurd_channels
from segflow.core.training_images import ImageFacts, TrainingImages, image_quantiles, without_missing
from segflow.core.voxels import LabelSource, VoxelSource, boxes_in_order
from segflow.planning.repeated_draws import RepeatedDraws
from segflow.storage.image_formats.placement import orientation

SAMPLES_OF_DATASET = 100_000_000
"""Foreground intensities drawn per channel, over all cases together."""


def samples_per_case(cases: int) -> int:
    """Number of intensities that are drawn from each channel of a case."""
    return SAMPLES_OF_DATASET // cases


def measure_case(case: Case, samples: int) -> CaseMeasurement:
    """Measure one case.

    Args:
        case: The case as read, with its label.
        samples: Foreground intensities to draw from each channel, with replacement, so that every case counts alike.

    Raises:
        SegflowError: The case has no label, or holds NaN or infinite voxels.
    """
    if case.label is None:
        raise SegflowError("the case has no label map, which measuring needs", case=case.case_id)
    for number, channel in enumerate(case.image):
        if not np.isfinite(channel.sum(dtype=np.float64)):
            _refuse_not_finite(number, int((~np.isfinite(channel)).sum()), case.case_id)
    cropped = crop_to_nonzero(case.image, case.label)
    # The ignore label counts as foreground here, as it does in nnU-Net.
    foreground = np.flatnonzero(cropped.label > 0)
    draws = RepeatedDraws()
    return CaseMeasurement(
        case_id=case.case_id,
        shape_cropped=cropped.box.shape,
        spacing=case.geometry.spacing,
        relative_size=float(np.prod(cropped.box.shape) / np.prod(case.image.shape[1:])),
        intensities=tuple(
            _draw(channel, _there(foreground, number, case), samples, draws)
            for number, channel in enumerate(cropped.image)
        ),
        facts=_facts(case, case.image.shape[1:], image_quantiles(case.image)),
        absurd=absurd_channels(case.image),
    )


def measure_as_read(case: OpenCase, samples: int) -> CaseMeasurement:
    """Like `measure_case`, for a case that is read slab by slab: the image twice, and the label map twice.

    Args:
        case: The case with its label.
        samples: See `measure_case`.

    Raises:
        SegflowError: See `measure_case`.
    """
    if case.label is None:
        raise SegflowError("the case has no label map, which measuring needs", case=case.case_id)
    look = look_at(case.image)
    for number, channel in enumerate(look.channels):
        _refuse_not_finite(number, channel.not_finite, case.case_id)
    channels, *shape = case.image.shape
    boxes = [box.moved(look.box.start) for box in boxes_in_order(look.box.shape, SLAB_VALUES // channels)]
    foreground = sum(int(np.count_nonzero(case.label.read(box) > 0)) for box in boxes)
    draws = RepeatedDraws()
    drawn = [_drawn(0 if number in case.missing else foreground, samples, draws) for number in range(channels)]
    return CaseMeasurement(
        case_id=case.case_id,
        shape_cropped=look.box.shape,
        spacing=case.geometry.spacing,
        relative_size=float(np.prod(look.box.shape) / np.prod(shape)),
        intensities=_look_up(case.image, case.label, boxes, drawn),
        facts=_facts(case, shape, look.quantiles),
        absurd=look.absurd,
    )


def _facts(case: Case | OpenCase, shape: Sequence[int], quantiles: tuple[tuple[float, ...], ...]) -> ImageFacts:
    geometry: Geometry = case.geometry
    known = without_missing(quantiles, case.missing)
    return ImageFacts(tuple(shape), geometry.spacing, orientation(geometry), known)


def _there(foreground: np.ndarray, channel: int, case: Case) -> np.ndarray:
    """The foreground voxels (n,) of a channel; none if it is missing."""
    return foreground[:0] if channel in case.missing else foreground


def _refuse_not_finite(channel: int, count: int, case_id: str) -> None:
    if count:
        raise SegflowError(
            f"channel {channel} holds {count} voxels that are NaN or infinite",
            case=case_id,
            fix="Replace them, for example by the air's value.",
        )


def _drawn(foreground: int, samples: int, draws: RepeatedDraws) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the foreground voxels that are drawn, with replacement, and how often each one is."""
    return draws.drawn(foreground, samples) if foreground else (np.empty(0, np.int64), np.empty(0, np.int64))


def _draw(channel: np.ndarray, foreground: np.ndarray, samples: int, draws: RepeatedDraws) -> IntensitySample:
    """Draw from one channel's foreground. The values are sorted and counted."""
    present, counts = _drawn(foreground.size, samples, draws)
    return _count_equal(channel.ravel()[foreground[present]].astype(np.float32, copy=False), counts)


def _look_up(
    image: VoxelSource, label: LabelSource, boxes: Sequence[Box], drawn: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[IntensitySample, ...]:
    """The intensities of each channel's drawn foreground voxels, sorted and counted.

    Args:
        image, label: Of the case.
        boxes: Boxes that cover it, in the order of its voxels.
        drawn: For each channel, ranks of foreground voxels and how often each one was drawn.
    """
    values = [np.empty(len(ranks), np.float32) for ranks, _ in drawn]
    before = 0
    for box in boxes:
        foreground = np.flatnonzero(label.read(box) > 0)
        if not len(foreground):
            continue
        for own, channel, (ranks, _) in zip(values, image.read(box), drawn, strict=True):
            first, last = np.searchsorted(ranks, [before, before + len(foreground)])
            own[first:last] = channel.ravel()[foreground[ranks[first:last] - before]]
        before += len(foreground)
    return tuple(_count_equal(own, counts) for own, (_, counts) in zip(values, drawn, strict=True))


def _count_equal(values: np.ndarray, counts: np.ndarray) -> IntensitySample:
    """Sort values and add up the counts of equal ones."""
    if not len(values):
        return IntensitySample(values, counts)
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    first = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    return IntensitySample(values[first], np.add.reduceat(counts, first))


def summarize(measurements: Sequence[CaseMeasurement]) -> Fingerprint:
    """Combine the measurements of all cases.

    Args:
        measurements: Measurements in the order of the cases.

    Raises:
        SegflowError: There is no case, the cases differ in channels, or none has foreground.
    """
    if not measurements:
        raise SegflowError("there is no case to measure")
    channels = len(measurements[0].intensities)
    for measurement in measurements:
        if len(measurement.intensities) != channels:
            raise SegflowError(
                "the case has another number of channels than the first case",
                case=measurement.case_id,
                found=len(measurement.intensities),
                expected=channels,
            )
    if not any(measurement.has_foreground for measurement in measurements):
        raise SegflowError(
            "no label map has foreground: all hold background only",
            found=f"{len(measurements)} cases",
            fix="Check that labelsTr holds the label maps of these images.",
        )
    for channel in range(channels):
        if not any(measurement.intensities[channel].counts.size for measurement in measurements):
            raise SegflowError(
                f"channel {channel} is missing in every case that has foreground, so that nothing is known of it",
                found=f"{len(measurements)} cases",
                fix="Take it out of channel_names.",
            )
    return Fingerprint(
        shapes_cropped=tuple(m.shape_cropped for m in measurements),
        spacings=tuple(m.spacing for m in measurements),
        intensities=tuple(_statistics([m.intensities[c] for m in measurements]) for c in range(channels)),
        median_relative_size=float(np.median([m.relative_size for m in measurements])),
        images=TrainingImages.of([m.facts for m in measurements]),
    )


def _statistics(samples: Sequence[IntensitySample]) -> ChannelIntensities:
    """Statistics of all draws of a channel, in double precision."""
    sample = _count_equal(np.concatenate([s.values for s in samples]), np.concatenate([s.counts for s in samples]))
    values, counts = sample.values.astype(np.float64), sample.counts
    total = int(counts.sum())
    mean = float(np.dot(values, counts) / total)
    below = np.cumsum(counts)

    def percentile(q: float) -> float:
        position = (total - 1) * q / 100  # between two of the sorted draws
        lower = int(position)
        first, second = (values[np.searchsorted(below, min(k, total - 1), side="right")] for k in (lower, lower + 1))
        return float(first + (second - first) * (position - lower))

    return ChannelIntensities(
        max=float(values[-1]),
        mean=mean,
        median=percentile(50),
        min=float(values[0]),
        percentile_00_5=percentile(0.5),
        percentile_99_5=percentile(99.5),
        std=float(np.sqrt(np.dot((values - mean) ** 2, counts) / total)),
    )
