"""Resampling by slabs for tensors on an accelerator, in fewer and larger steps than `slabs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from segflow.network.device_copies import sent
from segflow.preprocessing.interpolation import linear_taps, nearest_indices
from segflow.preprocessing.resampling import Interpolation
from segflow.preprocessing.slabs import Range, axis_orders

_SLAB_VOXELS = 2**26


class DeviceSlabResampler:
    """Resamples channels of a tensor to a new shape, slab by slab, on its device.

    Args:
        pieces, planes, new_shape, interpolation: As for `SlabResampler`, with tensors (K, planes, Y, X) of one device.

    Raises:
        SegflowError: As for `SlabResampler`.
    """

    def __init__(
        self,
        pieces: Sequence[tuple[int, torch.Tensor]],
        planes: int,
        new_shape: Sequence[int],
        interpolation: Interpolation | None,
    ) -> None:
        self._pieces = pieces
        tensor = pieces[0][1]
        self._dtype = tensor.dtype
        self._new_shape = tuple(int(n) for n in new_shape)
        shape = (planes, *tensor.shape[2:])
        orders = axis_orders(shape, self._new_shape, interpolation)
        self._axes = [_Axis(n, m, order, tensor.device) for n, m, order in zip(shape, new_shape, orders, strict=True)]

    def slabs(self, rows: Range) -> Iterator[Range]:
        """Ranges of target slices, one per slab."""
        plane = self._new_shape[1] * self._new_shape[2]
        step = max(1, _SLAB_VOXELS // plane)
        for start in range(rows[0], rows[1], step):
            yield start, min(start + step, rows[1])

    def channel(self, index: int, slab: Range) -> torch.Tensor:
        """One channel's values in a slab, float32 (slices, Y, X), rounded to the tensor's type (recipe 11.5)."""
        through, rows, columns = self._axes
        first, last = through.source_range(*slab)
        parts = [tensor[index, max(first - at, 0) : max(last - at, 0)] for at, tensor in self._pieces]
        planes = (parts[0] if len(parts) == 1 else torch.cat(parts)).float()
        planes = rows.interpolate(
            columns.interpolate(planes, 2, 0, (0, self._new_shape[2])), 1, 0, (0, self._new_shape[1])
        )
        return through.interpolate(planes, 0, first, slab).to(self._dtype).float()


class _Axis:
    def __init__(self, size: int, new_size: int, order: int, device: torch.device) -> None:
        self._same = size == new_size
        self._linear = order == 1
        if order == 1:
            low, high, weight = linear_taps(size, new_size)
        else:
            low = high = nearest_indices(size, new_size)
            weight = np.zeros(new_size)
        self._ends = (low.tolist(), high.tolist())
        self._low, self._high = sent(torch.tensor(low), device), sent(torch.tensor(high), device)
        self._weight = sent(torch.tensor(weight, dtype=torch.float32), device)

    def source_range(self, start: int, stop: int) -> Range:
        if self._same:
            return start, stop
        return self._ends[0][start], self._ends[1][stop - 1] + 1

    def interpolate(self, values: torch.Tensor, axis: int, first: int, target: Range) -> torch.Tensor:
        """The target range along an axis. ``values`` are source values from index ``first`` on."""
        if self._same:
            return values
        part = slice(*target)
        low = values.index_select(axis, self._low[part] - first)
        if not self._linear:
            return low
        shape = [1, 1, 1]
        shape[axis] = -1
        return low.lerp_(values.index_select(axis, self._high[part] - first), self._weight[part].view(shape))
