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
        tensor: float (K, Z, Y, X).
        new_shape: Voxels along z, y, x after resampling.
        interpolation: Of order 0 or 1; None if the plan does not resample.

    Raises:
        SegflowError: As for `SlabResampler`.
    """

    def __init__(self, tensor: torch.Tensor, new_shape: Sequence[int], interpolation: Interpolation | None) -> None:
        self._tensor = tensor
        self._new_shape = tuple(int(n) for n in new_shape)
        orders = axis_orders(tensor.shape[1:], self._new_shape, interpolation)
        self._axes = [
            _Axis(n, m, order, tensor.device) for n, m, order in zip(tensor.shape[1:], new_shape, orders, strict=True)
        ]

    def slabs(self) -> Iterator[Range]:
        """Ranges of target slices, one per slab."""
        plane = self._new_shape[1] * self._new_shape[2]
        rows = max(1, _SLAB_VOXELS // plane)
        for start in range(0, self._new_shape[0], rows):
            yield start, min(start + rows, self._new_shape[0])

    def channel(self, index: int, slab: Range) -> torch.Tensor:
        """One channel's values in a slab, float32 (slices, Y, X), rounded to the tensor's type (recipe 11.5)."""
        through, rows, columns = self._axes
        first, last = through.source_range(*slab)
        planes = self._tensor[index, first:last].float()
        planes = rows.interpolate(
            columns.interpolate(planes, 2, 0, (0, self._new_shape[2])), 1, 0, (0, self._new_shape[1])
        )
        return through.interpolate(planes, 0, first, slab).to(self._tensor.dtype).float()


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
