"""What a first look at an image tells, whatever the order in which its voxels are read, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from segflow.core.cropping import any_channel, extent_of
from segflow.core.geometry import Box
from segflow.core.intensities import channel_clauses, why_absurd
from segflow.core.training_images import sample_quantiles, sample_step
from segflow.core.voxels import VoxelSource, boxes_in_order

SLAB_VALUES = 1 << 24
"""Values of all channels that are read at once."""


@dataclass(frozen=True, slots=True)
class ChannelLook:
    """One channel of an image.

    Attributes:
        low, high: Lowest and highest value; NaN if a voxel is.
        nonzero: Number of voxels that are not zero.
        nonzero_low, nonzero_high: Lowest and highest value of these.
        not_finite: Number of voxels that are NaN or infinite.
    """

    low: float
    high: float
    nonzero: int
    nonzero_low: float
    nonzero_high: float
    not_finite: int

    def range_within(self, voxels: int) -> tuple[float, float]:
        """Lowest and highest value in a box of so many voxels, outside of which all are zero."""
        if self.nonzero == voxels:
            return self.nonzero_low, self.nonzero_high
        return self.low if self.low < 0 else 0.0, self.high if self.high > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ImageLook:
    """What a first look at an image tells.

    Attributes:
        shape: Voxels along z, y, x.
        box: The box of voxels that are not zero in every channel, as `crop_to_nonzero` cuts it.
        inside: Number of these voxels.
        channels: One entry per channel.
        absurd: Why the values cannot be measurements, in one clause, see `absurd_channels`; None if they can.
        quantiles: Of each channel, see `image_quantiles`.
    """

    shape: tuple[int, ...]
    box: Box
    inside: int
    channels: tuple[ChannelLook, ...]
    absurd: str | None
    quantiles: tuple[tuple[float, ...], ...]

    @property
    def has_zeros(self) -> bool:
        """Whether the box holds voxels that are zero in every channel."""
        return self.inside < math.prod(self.box.shape)


def look_at(image: VoxelSource) -> ImageLook:
    """Read an image once; or twice, if its values are suspicious.

    Raises:
        SegflowError: A file cannot be read.
    """
    shape = image.shape[1:]
    channels = [_Channel() for _ in range(image.shape[0])]
    box: Box | None = None
    inside = 0
    step = sample_step(shape)
    for part in boxes_in_order(shape, SLAB_VALUES // max(1, len(channels))):
        values = image.read(part)
        mask = any_channel(values)
        inside += int(np.count_nonzero(mask))
        box = _united(box, extent_of(mask), part)
        before = (part.start[0] * shape[1] + part.start[1]) * shape[2]
        for channel, own in zip(channels, values, strict=True):
            channel.take(own)
            channel.sample.append(own.reshape(-1)[-before % step :: step].copy())
    looks = tuple(channel.look() for channel in channels)
    clauses = [_why_absurd(image, number, look) for number, look in enumerate(looks)]
    quantiles = tuple(sample_quantiles(np.concatenate(channel.sample)) for channel in channels)
    return ImageLook(tuple(shape), box or Box.whole(shape), inside, looks, channel_clauses(clauses), quantiles)


def _united(box: Box | None, found: Box | None, part: Box) -> Box | None:
    """The box that holds ``box`` and what was found in a part of the image."""
    if found is None:
        return box
    found = found.moved(part.start)
    if box is None:
        return found
    return Box(tuple(map(min, box.start, found.start)), tuple(map(max, box.stop, found.stop)))


def _why_absurd(image: VoxelSource, number: int, look: ChannelLook) -> str | None:
    def parts() -> Iterator[np.ndarray]:
        for part in boxes_in_order(image.shape[1:], SLAB_VALUES // image.shape[0]):
            yield image.read(part)[number]

    return why_absurd(look.low, look.high, math.prod(image.shape[1:]), parts)


class _Channel:
    """Adds up what is known of a channel, and keeps a sample of its values."""

    def __init__(self) -> None:
        self.sample: list[np.ndarray] = [np.empty(0, np.float32)]
        self._low, self._high = math.inf, -math.inf
        self._nonzero_low, self._nonzero_high = math.inf, -math.inf
        self._nonzero = self._not_finite = 0

    def take(self, values: np.ndarray) -> None:
        """Add values of a box, float32 (Z, Y, X)."""
        low, high = values.min(), values.max()
        self._low, self._high = float(np.minimum(self._low, low)), float(np.maximum(self._high, high))
        nonzero = int(np.count_nonzero(values))
        self._nonzero += nonzero
        if not np.isfinite(low + high):
            self._not_finite += int(np.count_nonzero(~np.isfinite(values)))
        if nonzero and (low == 0 or high == 0):
            others = values[values != 0]
            low, high = others.min(), others.max()
        if nonzero:
            self._nonzero_low = float(np.minimum(self._nonzero_low, low))
            self._nonzero_high = float(np.maximum(self._nonzero_high, high))

    def look(self) -> ChannelLook:
        return ChannelLook(
            self._low, self._high, self._nonzero, self._nonzero_low, self._nonzero_high, self._not_finite
        )
