"""Resampling of many-channel tensors a few target slices at a time, so that no full-size channel ever exists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from segflow.core.errors import SegflowError
from segflow.preprocessing.interpolation import axis_bands, linear_taps, nearest_indices
from segflow.preprocessing.resampling import Interpolation

# Elements of what is worked on at once: on a processor the cache is the limit, elsewhere the number of launches.
_CPU_CHUNK, _CPU_SLAB = 2**18, 2**22
_DEVICE_CHUNK = _DEVICE_SLAB = 2**26


@dataclass(frozen=True, slots=True)
class Slab:
    """Some target slices.

    Attributes:
        start, stop: Their range along the first axis.
        chunks: The same range in parts that are worked on at once.
    """

    start: int
    stop: int
    chunks: tuple[tuple[int, int], ...]


class SlabResampler:
    """Resamples channels of a tensor (K, Z, Y, X) to a new shape, slab by slab.

    Args:
        tensor: float (K, Z, Y, X) on any device.
        new_shape: Voxels wanted along z, y, x.
        interpolation: Of order 0 or 1; None where the plan does not resample.

    Raises:
        SegflowError: The plan asks for another order, or for no resampling between different grids.
    """

    def __init__(self, tensor: torch.Tensor, new_shape: Sequence[int], interpolation: Interpolation | None) -> None:
        self._tensor = tensor
        self._new_shape = tuple(int(n) for n in new_shape)
        orders = _orders(tuple(tensor.shape[1:]), self._new_shape, interpolation)
        on_cpu = tensor.device.type == "cpu"
        self._axes = [
            _Axis(n, m, order, tensor.device) for n, m, order in zip(tensor.shape[1:], new_shape, orders, strict=True)
        ]
        plane = self._new_shape[1] * self._new_shape[2]
        self._chunk_rows = max(1, (_CPU_CHUNK if on_cpu else _DEVICE_CHUNK) // plane)
        self._slab_rows = max(self._chunk_rows, (_CPU_SLAB if on_cpu else _DEVICE_SLAB) // plane)

    def slabs(self, channels_at_once: int = 1) -> Iterator[Slab]:
        """The target's slices from first to last; slabs are lower where a caller holds several channels of one."""
        rows = max(1, self._slab_rows // channels_at_once)
        for start in range(0, self._new_shape[0], rows):
            stop = min(start + rows, self._new_shape[0])
            edges = [*range(start, stop, min(rows, self._chunk_rows)), stop]
            yield Slab(start, stop, tuple(pairwise(edges)))

    def channel(self, index: int, slab: Slab) -> Iterator[torch.Tensor]:
        """One channel's values in a slab, float32 (rows, Y, X) for each chunk.

        The values are rounded to the tensor's own type, as the recipe keeps it (11.5), and are overwritten by the
        next chunk.
        """
        through, rows, columns = self._axes
        first, last = through.source_range(slab.start, slab.stop)
        planes = self._tensor[index, first:last].float()
        planes = rows.apply_to_rows(columns.apply_to_columns(planes))
        for start, stop in slab.chunks:
            values = through.between_planes(planes, first, start, stop)
            yield values.to(self._tensor.dtype).float() if self._tensor.dtype != torch.float32 else values


class _Axis:
    """Interpolation along one axis, as tensors on the device."""

    def __init__(self, size: int, new_size: int, order: int, device: torch.device) -> None:
        self.size, self.new_size = size, new_size
        self._same = size == new_size
        self._linear = order == 1
        if order == 1:
            low, high, weight = linear_taps(size, new_size)
            bands = axis_bands(size, new_size, 1) if device.type == "cpu" and not self._same else ()
            self._bands = [(b.rows, b.columns, torch.from_numpy(b.matrix.copy()).t().contiguous()) for b in bands]
        else:
            low = high = nearest_indices(size, new_size)
            weight = np.zeros(new_size)
            self._bands = []
        self._low_of, self._high_of, self._weight_of = low.tolist(), high.tolist(), weight.tolist()
        self._low, self._high = torch.tensor(low, device=device), torch.tensor(high, device=device)
        self._weight = torch.tensor(weight, device=device, dtype=torch.float32)

    def source_range(self, start: int, stop: int) -> tuple[int, int]:
        """The source slices that the target slices need."""
        if self._same:
            return start, stop
        return self._low_of[start], self._high_of[stop - 1] + 1

    def apply_to_rows(self, planes: torch.Tensor) -> torch.Tensor:
        """(n, Y, X) to (n, Y', X)."""
        if self._same:
            return planes
        low = planes.index_select(1, self._low)
        return low.lerp_(planes.index_select(1, self._high), self._weight[:, None]) if self._linear else low

    def apply_to_columns(self, planes: torch.Tensor) -> torch.Tensor:
        """(n, Y, X) to (n, Y, X')."""
        if self._same:
            return planes
        if self._bands:  # gathering single columns is several times slower on a processor than multiplying
            flat = planes.reshape(-1, self.size)
            result = planes.new_empty((len(flat), self.new_size))
            for rows, columns, matrix in self._bands:
                result[:, rows] = flat[:, columns] @ matrix
            return result.view(*planes.shape[:2], self.new_size)
        low = planes.index_select(2, self._low)
        return low.lerp_(planes.index_select(2, self._high), self._weight) if self._linear else low

    def between_planes(self, planes: torch.Tensor, first: int, start: int, stop: int) -> torch.Tensor:
        """Target slices ``start`` to ``stop`` from the source slices that begin with number ``first``."""
        if self._same:
            return planes[start - first : stop - first]
        if stop == start + 1:
            low, high, weight = self._low_of[start] - first, self._high_of[start] - first, self._weight_of[start]
            low_plane = planes[low : low + 1]
            return low_plane if weight == 0 else torch.lerp(low_plane, planes[high : high + 1], weight)
        low_planes = planes.index_select(0, self._low[start:stop] - first)
        if not self._linear:
            return low_planes
        high_planes = planes.index_select(0, self._high[start:stop] - first)
        return low_planes.lerp_(high_planes, self._weight[start:stop, None, None])


def _orders(shape: Sequence[int], new_shape: Sequence[int], interpolation: Interpolation | None) -> list[int]:
    """Interpolation order along each axis."""
    if interpolation is None:
        if tuple(shape) != tuple(new_shape):
            raise SegflowError(
                "the plans resample nothing, but the prediction has another shape than the image",
                found=tuple(shape),
                expected=tuple(new_shape),
            )
        return [1, 1, 1]
    orders = [interpolation.order] * 3
    if interpolation.separate is not None:
        orders[interpolation.separate] = interpolation.order_through
    if any(order not in (0, 1) for order in orders):
        raise SegflowError(
            "the plans ask for an interpolation of probabilities that segflow does not have",
            found=f"order {interpolation.order}, order_z {interpolation.order_through}",
            expected="order 0 or 1",
        )
    return orders
