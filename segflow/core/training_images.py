"""What is known of a model's training images, so that a new image can be compared with them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.names import shortened

TRAINING_IMAGES = "training_images"
"""Key of `TrainingImages` in a fingerprint, beside nnU-Net's keys, and in the record of a run."""

PERCENTS = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
"""The percentiles of a channel's values that are kept. Voxels of value 0, such as those around a body, are left out."""

SAMPLE = 1 << 16
"""Voxels that are looked at per channel."""

MOST_PAIRED = 8
"""Channels up to which each is compared with each other one."""

MOST_SPREAD = 80.0
"""Decimal logarithms of spreads lie below: float32 holds no larger values."""

UNKNOWN = 1e9
"""End of a range that is not known, in either direction."""

USUAL_SHARE = 0.5
"""Share of the training images that an orientation needs, so that others are turned to it."""

AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
"""Direction in an orientation's name → axis of the patient."""

Range = tuple[np.ndarray, np.ndarray]
"""Lowest and highest values over the images, float64 arrays of the same shape."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of one image.

    Attributes:
        shape: Voxels along z, y, x.
        spacing: mm along z, y, x.
        orientation: Directions in which x, y and z grow, such as ``RAS``; None if it is oblique or not known.
        quantiles: The `PERCENTS` of each channel, as `sample_quantiles` gives them; NaN for one that is missing.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str | None
    quantiles: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Features:
    """What of an image's quantiles is compared.

    Attributes:
        spread: (C,) decimal logarithm of the distance between the outer quantiles; -inf for a constant channel.
        position: (C, Q) quantiles divided by that distance, which no factor changes.
        pairs: (P, 4) for each pair of channels: difference of the spreads, and of three quantiles in units of the wider
            channel's spread.
    """

    spread: np.ndarray
    position: np.ndarray
    pairs: np.ndarray

    @classmethod
    def of(cls, quantiles: np.ndarray) -> Features:
        """From the quantiles (C, Q) of an image. Those of a missing channel are NaN, and so is all that follows."""
        width = quantiles[:, -1] - quantiles[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.log10(width)
            position = np.where(
                width[:, None] > 0, quantiles / width[:, None], np.where(np.isnan(quantiles), np.nan, 0.0)
            )
        pairs = [_pair(quantiles, width, a, b) for a, b in pairs_of(len(quantiles))]
        return cls(spread, position, np.array(pairs, np.float64).reshape(-1, 4))


def pairs_of(channels: int) -> list[tuple[int, int]]:
    """The pairs of channels that are compared."""
    return list(combinations(range(channels), 2)) if channels <= MOST_PAIRED else []


def _pair(quantiles: np.ndarray, width: np.ndarray, a: int, b: int) -> list[float]:
    if np.isnan(width[a]) or np.isnan(width[b]):
        return [np.nan] * 4
    wider = max(width[a], width[b])
    if not min(width[a], width[b]) > 0:
        return [0.0] * 4
    differences = (quantiles[a] - quantiles[b])[[1, 3, 5]] / wider
    return [float(np.log10(width[a] / width[b])), *differences.tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingImages:
    """The ranges that a dataset's images span.

    Attributes:
        cases: Number of images.
        orientations: Orientation → number of images; oblique ones and those that do not say it are not counted.
        spacing, shape: mm, and voxels, along z, y, x.
        quantiles: (C, Q) the `PERCENTS` of the channels.
        spread, position, pairs: See `Features`.
    """

    cases: int
    orientations: Mapping[str, int]
    spacing: Range
    shape: Range
    quantiles: Range
    spread: Range
    position: Range
    pairs: Range

    @classmethod
    def of(cls, images: Sequence[ImageFacts]) -> TrainingImages:
        """Summarise images, which all have the same number of channels."""
        quantiles = [np.array(image.quantiles, np.float64) for image in images]
        features = [Features.of(own) for own in quantiles]
        orientations = Counter(image.orientation for image in images if image.orientation is not None)
        return cls(
            cases=len(images),
            orientations=dict(sorted(orientations.items())),
            spacing=_range([np.array(image.spacing, np.float64) for image in images]),
            shape=_range([np.array(image.shape, np.float64) for image in images]),
            quantiles=_range(quantiles),
            spread=_range([own.spread for own in features]),
            position=_range([own.position for own in features]),
            pairs=_range([own.pairs for own in features]),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrainingImages) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json()))

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.spread[0])

    def turn_to(self, orientation: str) -> str | None:
        """The orientation to which an image is turned before prediction; None if it stays as it is.

        An image stays if some training images have its orientation, or if no orientation is usual among them.
        """
        return None if orientation in self.orientations else self.usual_orientation

    @property
    def usual_orientation(self) -> str | None:
        """The orientation of most training images; None if too few of them share one."""
        if not self.orientations:
            return None
        usual = max(self.orientations, key=lambda name: self.orientations[name])
        return usual if self.orientations[usual] >= USUAL_SHARE * self.cases else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON. A constant channel's spread is null."""
        ranges = {name: [_plain(side) for side in getattr(self, name)] for name in _RANGES}
        return {"cases": self.cases, "orientations": dict(self.orientations), "percents": list(PERCENTS), **ranges}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainingImages:
        """Inverse of `to_json`.

        Raises:
            SegflowError: A value cannot be used.
        """
        try:
            ranges = {name: _read_range(value[name]) for name in _RANGES}
            orientations = {str(name): int(count) for name, count in value["orientations"].items()}
            found = cls(cases=int(value["cases"]), orientations=orientations, **ranges)
            whole = tuple(value["percents"]) == PERCENTS and found._is_whole()
        except UNUSABLE as error:
            raise SegflowError(f"the record of the training images cannot be used: {shortened(error)}") from error
        if not whole:
            raise SegflowError("the record of the training images is not whole", found=shortened(dict(value)))
        return found

    def _is_whole(self) -> bool:
        channels, count = self.channels, len(PERCENTS)
        expected = {
            "spacing": (3,),
            "shape": (3,),
            "quantiles": (channels, count),
            "spread": (channels,),
            "position": (channels, count),
            "pairs": (len(pairs_of(channels)), 4),
        }
        finite = all(np.isfinite(side).all() for name in _RANGES if name != "spread" for side in getattr(self, name))
        bounded = all((side < MOST_SPREAD).all() for side in self.spread)
        named = all({AXES.get(c) for c in name} == {0, 1, 2} and len(name) == 3 for name in self.orientations)
        shaped = all(side.shape == expected[name] for name in _RANGES for side in getattr(self, name))
        return named and shaped and finite and bounded and self.cases > 0 and bool((self.spacing[0] > 0).all())


_RANGES = ("spacing", "shape", "quantiles", "spread", "position", "pairs")


def _range(values: Sequence[np.ndarray]) -> Range:
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    if known.all():
        return stacked.min(0), stacked.max(0)
    low, high = np.where(known, stacked, np.inf).min(0), np.where(known, stacked, -np.inf).max(0)
    unknown = ~known.any(0)  # such as of two channels that no image has together: nothing lies beyond
    return np.where(unknown, -UNKNOWN, low), np.where(unknown, UNKNOWN, high)


def _plain(values: np.ndarray) -> list[Any]:
    """Nested lists, with six digits, which suffice for comparison."""
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


def _read_range(value: Any) -> Range:
    low, high = (_read(side) for side in value)
    return low, high


def _read(value: Any) -> np.ndarray:
    array = np.array(value, np.float64)  # null becomes NaN
    array[np.isnan(array)] = -np.inf
    return array.reshape(-1, 4) if array.size == 0 else array


def sample_step(shape: Sequence[int]) -> int:
    """Every how many voxels one is looked at, such that the sample spreads over all rows and columns.

    Args:
        shape: Voxels along z, y, x.
    """
    step = max(1, math.prod(shape) // SAMPLE)
    while step > 1 and any(math.gcd(step, int(n)) > 1 for n in shape[1:]):
        step += 1
    return step


def sample_quantiles(values: np.ndarray) -> tuple[float, ...]:
    """The `PERCENTS` of sampled values (n,) of one channel that are finite and not 0; zeros if there are none."""
    values = values[np.isfinite(values) & (values != 0)]
    if not len(values):
        return (0.0,) * len(PERCENTS)
    values = np.sort(values)  # far quicker than numpy's percentiles of unsorted doubles
    ranks = np.asarray(PERCENTS) / 100 * (len(values) - 1)
    below = np.floor(ranks).astype(np.int64)
    low, high = (values[np.minimum(below + step, len(values) - 1)].astype(np.float64) for step in (0, 1))
    share = ranks - below
    # From the nearer neighbour, as numpy does, so that the numbers are its own.
    found = np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1 - share))
    return tuple(found.tolist())


def image_quantiles(image: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """The quantiles of each channel of an image (C, Z, Y, X)."""
    step = sample_step(image.shape[1:])
    return tuple(sample_quantiles(channel.reshape(-1)[::step]) for channel in image)


def without_missing(quantiles: Sequence[tuple[float, ...]], missing: Sequence[int]) -> tuple[tuple[float, ...], ...]:
    """Quantiles of an image's channels, NaN for those that are missing."""
    return tuple((math.nan,) * len(own) if number in missing else own for number, own in enumerate(quantiles))
