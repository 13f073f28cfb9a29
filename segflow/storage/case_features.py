"""Small records of what a case holds, by which the cases of a dataset are compared with each other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from segflow.core.cropping import extent_of
from segflow.core.geometry import Geometry
from segflow.storage.image_formats.placement import array_affine
from segflow.storage.label_values import ValueRoles

SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)
"""Quantiles of a channel."""
SAMPLE = 20_000
"""Voxels from which quantiles are taken; enough to tell images apart."""
FEW = 8
"""A channel with at most this many distinct whole values looks like a label map."""
PICTURE, FLAT_PICTURE = (12, 12, 12), (1, 32, 32)
"""Cells of the picture of a volume and of a 2D image."""


@dataclass(frozen=True, slots=True)
class ChannelFeatures:
    """Statistics of one channel.

    Attributes:
        quantiles: Its values at `SHARES`.
        few_values: Whether it holds at most `FEW` distinct values, all whole.
    """

    quantiles: tuple[float, ...]
    few_values: bool

    @property
    def width(self) -> float:
        """Range of values but for the outermost hundredths."""
        return self.quantiles[-1] - self.quantiles[0]


@dataclass(slots=True)
class CaseFeatures:
    """What is kept of a case after its files were read: 10 KB at most for images of up to 500 slices.

    Attributes:
        case_id: Name of the case.
        channels: One entry per channel; those of a file that cannot be used are missing.
        picture: Coarse picture of the first channel, see `picture_of`; None if it cannot be used.
        slices: Digests (uint64) of the first channel's slices along z, without those of one value.
        image: Digest of all channels with their shapes; None if a file cannot be used.
        label: Digest of the label map; None if it is missing or has no foreground.
        spacing: mm along z, y, x of the first channel.
        centres: Label → its centre in the patient in mm: right, front, up. Only of labels that name a side.
        islands: Foreground voxels without a neighbour in the foreground, diagonals included.
        patient: The patient's identity, if a header holds one.
    """

    case_id: str
    channels: list[ChannelFeatures] = field(default_factory=list)
    picture: np.ndarray | None = None
    slices: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    image: str | None = ""
    label: str | None = None
    spacing: tuple[float, ...] | None = None
    centres: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    islands: int = 0
    patient: str | None = None

    def add_channels(self, image: np.ndarray, geometry: Geometry) -> None:
        """Add the channels of one file.

        Args:
            image: float32 (C, Z, Y, X), all finite.
            geometry: Its geometry.
        """
        first = not self.channels
        with np.errstate(all="ignore"):  # values near the limit of float32 overflow in sums
            self._add(image, geometry, first=first)

    def _add(self, image: np.ndarray, geometry: Geometry, *, first: bool) -> None:
        """See `add_channels`; ``first`` says whether these are the case's first channels."""
        for channel in image:
            digests = slice_digests(channel)
            if first and not self.channels:
                self.picture, self.spacing = picture_of(channel), geometry.spacing
                self.slices = np.array([digest for digest in digests if digest is not None], np.uint64)
            self.channels.append(features_of(channel))
            if self.image is not None:
                self.image = _digest(f"{self.image} {channel.shape} {digests}".encode())

    def add_label(
        self, label: np.ndarray, geometry: Geometry, sided: Sequence[int], roles: ValueRoles | None = None
    ) -> None:
        """Add the label map.

        Args:
            label: Whole numbers (Z, Y, X), as files hold them.
            geometry: Its geometry.
            sided: Values whose centres are wanted.
            roles: What the values stand for; None takes 0 for background.
        """
        roles = roles or ValueRoles(())
        box = extent_of(roles.without_background(label))
        if box is None:
            return
        self.label = _digest(f"{label.shape}".encode(), np.ascontiguousarray(label))
        part = label[box.slices]
        self.islands = islands_in(part, roles)
        if sided and geometry.header.keys() & {"affine", "direction", "reoriented_affine"}:
            self.centres = centres_of(part, box.start, geometry, sided)


def features_of(channel: np.ndarray) -> ChannelFeatures:
    """Statistics of a channel, float32 (Z, Y, X), from an even sample of its voxels."""
    flat = channel.reshape(-1)
    sample = flat[:: max(1, flat.size // SAMPLE)]
    quantiles = tuple(float(value) for value in np.quantile(sample, SHARES))
    few = False
    if len(values := np.unique(sample)) <= FEW and np.all(values == np.round(values)):  # then look at all voxels
        few = not np.any(np.isin(flat, values, invert=True)) or len(np.unique(flat)) <= FEW
    return ChannelFeatures(quantiles, few)


def slice_digests(channel: np.ndarray) -> list[int | None]:
    """A number of 64 bits for each slice along z of a channel (Z, Y, X); None for a slice of one value."""
    return [None if np.all(plane == plane.flat[0]) else int(_digest(plane), 16) for plane in channel]


def picture_of(channel: np.ndarray) -> np.ndarray:
    """A coarse picture that stays the same if intensities are changed by any growing function, or voxels resampled.

    Cells hold the ranks of their mean intensities, from which the ranks of their surroundings are subtracted, since
    brightness at large scale is alike in all images of an organ.

    Args:
        channel: float32 (Z, Y, X).

    Returns:
        float16, flat, of mean 0 and length 1; all 0 for an image of one value.
    """
    cells = channel
    for axis, count in enumerate(FLAT_PICTURE if channel.shape[0] == 1 else PICTURE):
        cells = _resized(cells, axis, count)
    ranks = np.argsort(np.argsort(cells.ravel(), kind="stable"), kind="stable").reshape(cells.shape).astype(np.float64)
    fine = ranks - _blurred(ranks)
    fine -= fine.mean()
    length = float(np.linalg.norm(fine))
    flat = (fine / length if length else fine).ravel()
    return flat.astype(np.float16) if channel.min() < channel.max() else np.zeros(flat.size, np.float16)


def _resized(cells: np.ndarray, axis: int, count: int) -> np.ndarray:
    """Means of ``count`` equal parts along an axis; where there are fewer voxels, values between them."""
    length = cells.shape[axis]
    if length >= count:
        starts = np.arange(count) * length // count
        sums = np.add.reduceat(cells, starts, axis=axis)
        parts = np.diff(np.append(starts, length)).astype(np.float32)
        return np.asarray(sums / np.expand_dims(parts, [a for a in range(cells.ndim) if a != axis]), dtype=np.float32)
    places = np.linspace(0, length - 1, count)
    below = np.minimum(places.astype(int), max(0, length - 2))
    share = np.expand_dims(places - below, [a for a in range(cells.ndim) if a != axis])
    above = np.minimum(below + 1, length - 1)
    return np.asarray(cells.take(below, axis) * (1 - share) + cells.take(above, axis) * share)


def _blurred(values: np.ndarray) -> np.ndarray:
    """Means over five cells along every axis; the cells at the border are repeated."""
    for axis, length in enumerate(values.shape):
        if length > 1:
            places = np.arange(length)
            values = sum(values.take(np.clip(places + k, 0, length - 1), axis) for k in range(-2, 3)) / 5
    return values


def islands_in(label: np.ndarray, roles: ValueRoles) -> int:
    """Number of foreground voxels (Z, Y, X) that have only background around them, diagonals included."""
    import cc3d  # slow to load

    components = cc3d.connected_components(roles.without_background(label), connectivity=26)
    alone = np.flatnonzero(cc3d.statistics(components)["voxel_counts"][1:] == 1) + 1
    if not roles.ignored or not len(alone):
        return len(alone)
    return int(np.isin(label[np.isin(components, alone)], roles.ignored, invert=True).sum())


def centres_of(
    label: np.ndarray, start: Sequence[int], geometry: Geometry, values: Sequence[int]
) -> dict[int, tuple[float, ...]]:
    """Label → its centre in the patient in mm: right, front, up. Labels that do not occur are left out.

    Args:
        label: Whole numbers (Z, Y, X), a box of a label map.
        start: The box's first voxel along z, y, x.
        geometry: Geometry of the whole map.
        values: The labels.
    """
    affine, found = array_affine(geometry), {}
    wanted = np.array(sorted(values))
    sums, counts = np.zeros((len(wanted) + 1, 3)), np.zeros(len(wanted) + 1)
    rows, columns = (np.arange(n) + at for n, at in zip(label.shape[1:], start[1:], strict=True))
    for z, plane in enumerate(label, start=start[0]):
        place = np.minimum(np.searchsorted(wanted, plane), len(wanted) - 1)
        numbers = np.where(wanted[place] == plane, place, len(wanted)).ravel()  # the last counts all others
        here = np.bincount(numbers, minlength=len(counts))
        along_y = np.bincount(numbers, weights=np.repeat(rows, plane.shape[1]), minlength=len(counts))
        along_x = np.bincount(numbers, weights=np.tile(columns, plane.shape[0]), minlength=len(counts))
        counts += here
        sums += np.stack([here * z, along_y, along_x], axis=1)
    for place, value in enumerate(wanted.tolist()):
        if counts[place]:
            z, y, x = sums[place] / counts[place]
            found[value] = tuple(float(n) for n in (affine @ (x, y, z, 1))[:3])
    return found


def _digest(*parts: bytes | np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    return digest.hexdigest()
