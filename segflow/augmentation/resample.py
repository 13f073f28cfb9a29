"""Affine resampling of one patch: linear for the image, by the largest weight for the label.

Each voxel takes eight gathers and seven interpolations, a slab of slices at a time, which fits into the cache. Most
cells of the label map hold a single label and need no weights, so the cost hardly depends on the number of labels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from segflow.core.geometry import Box
from segflow.core.labels import OUTSIDE
from segflow.network.device_copies import sent

SLAB_VOXELS = 2**17
"""Number of voxels that are computed at a time on a CPU."""

VOTE_VOXELS = 2**20
"""Number of voxels whose labels are voted on at a time on another device; each takes about 100 bytes."""

MIXED = torch.iinfo(torch.int16).min
"""Value of a cell whose corners have several labels."""

TIE_SCALE = 1000.0
"""Label weights are compared in thousandths and half precision, so that rounding breaks no tie (recipe 7)."""


def source_region(matrix: torch.Tensor, patch_size: Sequence[int], source_size: Sequence[int]) -> Box:
    """The box of source voxels that an affine resampling uses.

    Args:
        matrix: (d, d), from output to source, both centred.
        patch_size: Voxels of the output.
        source_size: Voxels of the source.
    """
    reach = matrix.double().abs() @ torch.tensor([(n - 1) / 2 for n in patch_size], dtype=torch.float64)
    slack = 1e-3  # since coordinates are in single precision
    start, stop = [], []
    for size, half in zip(source_size, reach.tolist(), strict=True):
        centre = (size - 1) / 2
        start.append(int((centre - half - slack) // 1))
        stop.append(int((centre + half + slack) // 1) + 2)
    return Box(tuple(start), tuple(stop)).clip(source_size)


def resample(
    image: torch.Tensor,
    label: torch.Tensor,
    matrix: torch.Tensor,
    out_image: torch.Tensor,
    out_label: torch.Tensor,
    *,
    image_nearest: bool = False,
    label_nearest: bool = False,
) -> None:
    """Resample image and label about their common centre.

    Outside of the source the image is 0 and the label -1. The source ends half a voxel beyond its outermost centres.
    The label with the largest sum of weights wins. Among equal ones the nearest voxel's label wins if it is one of
    them, else the lowest (recipe 7).

    Args:
        image: float (C, *source), d spatial axes.
        label: integer (L, *source).
        matrix: (d, d), from output to source coordinates in voxels, both centred at 0.
        out_image: float (C, *patch), written.
        out_label: integer (L, *patch), written.
        image_nearest: Take the nearest voxel of the image.
        label_nearest: Take the nearest voxel of the label.
    """
    source_size, patch_size = image.shape[1:], out_image.shape[1:]
    region = source_region(matrix, patch_size, source_size)
    # With a frame of one voxel, "outside" is a value like any other.
    images = _framed(image, region, 0)
    labels = _framed(label, region, OUTSIDE)
    frame = images.shape[1:]
    images, labels = images.flatten(1), labels.flatten(1)
    cells = None if label_nearest else _uniform_cells(labels, _strides(frame))
    shift = [1 - a for a in region.start]
    centre = [(n - 1) / 2 + s for n, s in zip(source_size, shift, strict=True)]
    for slab, position in _positions(matrix, centre, patch_size, frame, image.device):
        grid = _Grid(position, frame, shift)
        for channel, source in enumerate(images):
            values = source.index_select(0, grid.nearest()) if image_nearest else grid.interpolate(source)
            out_image[channel, slab] = values.view(position[0].shape)
        for channel, source in enumerate(labels):
            if cells is None:
                values = source.index_select(0, grid.nearest())
            else:
                values = grid.majority(source, cells[channel])
            out_label[channel, slab] = values.view(position[0].shape)


def _framed(values: torch.Tensor, region: Box, outside: int) -> torch.Tensor:
    frame = values.new_empty((len(values), *(n + 2 for n in region.shape)))
    frame[(slice(None), *(slice(1, -1) for _ in region.shape))] = values[(slice(None), *region.slices)]
    for axis in range(1, frame.ndim):
        frame.select(axis, 0).fill_(outside)
        frame.select(axis, -1).fill_(outside)
    return frame


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _uniform_cells(labels: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    """The common label of a voxel and its next neighbours along every axis; `MIXED` if they differ.

    It works on flat rows (L, voxels). Cells that wrap around a row begin on the far side of the frame and are not used.
    """
    mixed = torch.zeros_like(labels, dtype=torch.bool)
    for stride in strides:
        count = mixed.shape[1] - stride
        differ = labels[:, :count] != labels[:, stride : stride + count]
        mixed = differ.logical_or_(mixed[:, :count]).logical_or_(mixed[:, stride:])
    cells = labels.clone()
    cells[:, : mixed.shape[1]].masked_fill_(mixed, MIXED)
    return cells


def _positions(
    matrix: torch.Tensor,
    centre: Sequence[float],
    patch_size: Sequence[int],
    frame: Sequence[int],
    device: torch.device,
) -> Iterator[tuple[slice, list[torch.Tensor]]]:
    """Frame coordinates of the output voxels: per slab one float32 tensor (slices, *rest) for each axis."""
    rows = matrix.double().tolist()
    steps = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in patch_size]  # not every device has float64
    planes = []
    for row, middle in zip(rows, centre, strict=True):
        plane = torch.full((), middle, dtype=torch.float64)
        for weight, step in zip(row[1:], steps[1:], strict=True):
            plane = plane.unsqueeze(-1) + weight * step
        planes.append(sent(plane.float(), device))
    slices = patch_size[0] if device.type != "cpu" else max(1, SLAB_VOXELS // planes[0].numel())
    for start in range(0, patch_size[0], slices):
        slab = slice(start, min(start + slices, patch_size[0]))
        along = sent(steps[0][slab].float(), device).view(-1, *(1 for _ in patch_size[1:]))
        position = [torch.add(plane, along, alpha=row[0]) for plane, row in zip(planes, rows, strict=True)]
        yield slab, [values.clamp_(0, size - 1) for values, size in zip(position, frame, strict=True)]


class _Grid:
    """Places of a slab's voxels in the frame: their cells, and their positions within the cells.

    Args:
        position: Coordinates along each axis.
        frame: Voxels of the frame.
        shift: Frame coordinate minus coordinate in the source, along each axis.
    """

    def __init__(self, position: Sequence[torch.Tensor], frame: Sequence[int], shift: Sequence[int]) -> None:
        self.position = [values.flatten() for values in position]
        self.shift = shift
        self.strides = _strides(frame)
        self.voxels = math.prod(frame)
        low = [values.floor().clamp_(max=size - 2) for values, size in zip(self.position, frame, strict=True)]
        self.corner = self._flat(low)
        self.fractions = [values - a for values, a in zip(self.position, low, strict=True)]

    def _flat(self, index: Sequence[torch.Tensor]) -> torch.Tensor:
        # Single precision is exact below 2^24 and saves a conversion per axis.
        exact = torch.float32 if self.voxels < 2**24 else torch.int32
        result = index[-1].to(exact)
        for values, stride in zip(index[:-1], self.strides[:-1], strict=True):
            result = torch.add(result, values.to(exact), alpha=stride)
        return result.int()

    def nearest(self, where: torch.Tensor | slice | None = None) -> torch.Tensor:
        """Flat index of the nearest voxel of the frame. A tie goes to the even source coordinate."""
        position = self.position if where is None else [values[where] for values in self.position]
        return self._flat([(values - s).round_().add_(s) for values, s in zip(position, self.shift, strict=True)])

    def interpolate(self, source: torch.Tensor, axis: int = 0) -> torch.Tensor:
        """Linear interpolation along this axis and those after it."""
        if axis == len(self.strides):
            return source.index_select(0, self.corner)
        before = self.interpolate(source, axis + 1)
        after = self.interpolate(source[self.strides[axis] :], axis + 1)
        return before.lerp_(after, self.fractions[axis])

    def majority(self, source: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """The label with the largest weight."""
        result = cells.index_select(0, self.corner)
        mixed = result == MIXED
        if source.device.type == "cpu":
            where = mixed.nonzero().flatten()
            if len(where) > 0:
                result[where] = self._vote(source, where)
            return result
        # To find the mixed cells would be to wait for the device, so there is a vote for every voxel.
        for start in range(0, len(result), VOTE_VOXELS):
            piece = slice(start, start + VOTE_VOXELS)
            result[piece] = torch.where(mixed[piece], self._vote(source, piece), result[piece])
        return result

    def _vote(self, source: torch.Tensor, where: torch.Tensor | slice) -> torch.Tensor:
        """The label with the largest weight at these voxels."""
        corner = self.corner[where]
        offsets = [sum(pair) for pair in itertools.product(*((0, stride) for stride in self.strides))]
        label = torch.stack([source[offset:].index_select(0, corner) for offset in offsets])
        weight = torch.ones((1, len(corner)), device=source.device)
        for values in self.fractions:
            after = values[where]
            weight = torch.stack([weight * (1 - after), weight * after], 1).flatten(0, 1)
        own = source.index_select(0, self.nearest(where))
        return _vote_of_two(label, weight, own) if source.device.type == "cpu" else _vote(label, weight, own)


def _vote_of_two(label: torch.Tensor, weight: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """What `_vote` gives, quicker where nearly all positions have only two labels."""
    low, high = label.amin(0), label.amax(0)
    for_low, for_high = _score(label, weight, low), _score(label, weight, high)
    result = torch.where(for_high > for_low, high, low)
    result = torch.where(for_high == for_low, own, result)
    several = ((label != low) & (label != high)).any(0).nonzero().flatten()
    if len(several) > 0:
        result[several] = _vote(label[:, several], weight[:, several], own[several])
    return result


def _vote(label: torch.Tensor, weight: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The label with the largest weight at each position; among equal ones ``own``, else the lowest.

    Args:
        label: integer (corners, positions).
        weight: float32 (corners, positions), with sum 1.
        own: Label of the nearest voxel, which wins a tie if it is part of it.
    """
    scores = torch.stack([_score(label, weight, candidate) for candidate in label])
    best = scores.amax(0)
    lowest = label.masked_fill(scores != best, torch.iinfo(label.dtype).max).amin(0)
    return torch.where(_score(label, weight, own) == best, own, lowest)


def _score(label: torch.Tensor, weight: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    return weight.masked_fill(label != candidate, 0).sum(0).mul_(TIE_SCALE).half()
