"""Blocks of a convolution by Winograd's scheme: the combinations of their inputs and outputs, in reused memory.

A block is one tile along the depth and a few along the height, with all columns, of one or a few samples. It is small
enough for the cache. `segflow.network.cpu.winograd` explains the scheme. Volumes are float32 (N, D, H, W, C).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from segflow.network.cpu.allocation import empty

TILE = 4
"""Outputs of a tile along one axis."""
_OVERLAP = 2
"""Inputs that neighbouring tiles share, and columns of zeros of a row: the kernel's taps less one."""
_INPUTS = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
)
"""Six combinations of the six inputs of a tile."""
_TAPS = torch.tensor(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
    + [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
    dtype=torch.float64,
)
"""Six combinations of the three taps."""
_OUTPUTS = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
)
"""The four outputs of a tile from its six products."""
_ROWS = 4608
"""Rows of all planes in a block for each thread: more would leave the second-level cache, fewer would read the weights
too often."""

PLANES = len(_TAPS)
"""Products of a tile along one axis."""


@lru_cache(maxsize=4)
def tap_combinations(depth_taps: int, dtype: torch.dtype) -> Tensor:
    """(P, taps along the depth times 3) combines the taps of both axes. P is 36 for 3 taps along the depth, 6 for 1."""
    return (torch.kron(_TAPS, _TAPS) if depth_taps == 3 else _TAPS).to(dtype)


def constant_plane(depth_taps: int) -> int:
    """The plane that every output has once, so that a constant added to it is added to the outputs."""
    return PLANES + 1 if depth_taps == 3 else 1


def padded_share(shape: Sequence[int], depth_taps: int) -> float:
    """Share of the direct convolution's multiplications, with the tiles that overhang and the columns of zeros.

    Args:
        shape: (D, H, W).
        depth_taps: 3 or 1.
    """
    depth, height, width = shape
    share = PLANES * _tiles(height) / (3 * height) * (width + _OVERLAP) / width
    return share * PLANES * _tiles(depth) / (3 * depth) if depth_taps == 3 else share


def blocks(source: Tensor, result: Tensor, depth_taps: int) -> Iterator[tuple[Block, int]]:
    """Every block of a convolution, with its first slice. A block is used before the next one is taken.

    Args:
        source: Inputs (N, D, H, W, C).
        result: Outputs, or their gradients, (N, D, H, W, C').
        depth_taps: Taps along the depth: 3, or 1 for a convolution of slices.
    """
    samples, depth, height, width = source.shape[:4]
    rows = max(_ROWS * torch.get_num_threads() // _planes(depth_taps) // (width + _OVERLAP), 1)
    tiles = _even_share(_tiles(height), rows)
    group = _even_share(samples, max(rows // tiles, 1))
    made: dict[tuple[int, int], Block] = {}
    for sample in range(0, samples, group):
        for row in range(0, height, tiles * TILE):
            extent = min(group, samples - sample), min(tiles, _tiles(height - row))
            block = made.get(extent)
            if block is None:
                block = made[extent] = Block(
                    extent, width, (source.shape[4], result.shape[4]), depth_taps, source.dtype
                )
            block.move(source, result, sample, row)
            for first in range(0, depth, block.slices):
                yield block, first


class Block:
    """The memory of a block and the steps in it.

    ``rows`` L of a plane are (tiles, samples, W + 2): columns of zeros stand for what the kernel reads beside the
    volume. Outputs of the last two columns mean nothing.

    Args:
        extent: Samples and tiles of the height.
        width: W.
        channels: C of the inputs and C' of the outputs.
        depth_taps: 3 or 1.
        dtype: Type of the volumes.

    Attributes:
        slices: Output slices of a block, 4 or 1.
        shifted: For each of the three taps along the width its inputs, (P, L, C).
        products: (P, L, C').
    """

    def __init__(
        self, extent: tuple[int, int], width: int, channels: tuple[int, int], depth_taps: int, dtype: torch.dtype
    ) -> None:
        self.samples, self.tiles = extent
        self.width = width
        self.inputs, self.outputs = channels
        self.nested = depth_taps == 3
        self.slices, depth_planes = (TILE, PLANES) if self.nested else (1, 1)
        self.rows = self.tiles * self.samples * (width + _OVERLAP)
        planes = _planes(depth_taps)
        self._inputs, self._outputs = _INPUTS.to(dtype), _OUTPUTS.to(dtype)
        memory = torch.zeros((planes * self.rows + _OVERLAP) * self.inputs, dtype=dtype)
        strides = (self.rows * self.inputs, self.inputs, 1)
        self.shifted = [
            memory.as_strided((planes, self.rows, self.inputs), strides, tap * self.inputs) for tap in range(3)
        ]
        self._by_height = self.shifted[0].view(depth_planes, PLANES * self.tiles, self.samples, -1)
        self.products = empty((planes, self.rows, self.outputs), dtype)
        reads = depth_planes * (self.tiles * TILE + _OVERLAP) * width * self.inputs
        self._half = empty((max(reads, self.slices * PLANES * self.rows * self.outputs),), dtype)
        self._half_outputs = self.products.view(1, -1)
        if self.nested:
            self._half_outputs = self._half[: self.slices * PLANES * self.rows * self.outputs].view(self.slices, -1)

    def move(self, source: Tensor, result: Tensor, sample: int, row: int) -> None:
        """Stand at a sample and a row of the volumes, for all slices. See `blocks`."""
        depth, height = source.shape[1:3]
        first, last = max(row - 1, 0), min(row + self.tiles * TILE + 1, height)
        read, width, inside = (
            _banded_inputs(self.tiles, source.dtype),
            self.width * self.inputs,
            slice(self.inputs, -self.inputs),
        )
        self._combine = read[:, first - row + 1 : last - row + 1].expand(len(self._by_height), -1, -1)
        if self.nested:
            self._half_inputs = self._half[: PLANES * (last - first) * width].view(PLANES, -1, width)
        samples = range(sample, sample + self.samples)
        self._sources = [
            (source[one, :, first:last].flatten(2), self._by_height[:, :, index, inside])
            for index, one in enumerate(samples)
        ]
        until = min(row + self.tiles * TILE, height)
        self._write = _banded_outputs(self.tiles, source.dtype)[: until - row].expand(self.slices, -1, -1)
        self._results = [result[one, :, row:until].flatten(2) for one in samples]
        self._depth = depth

    def combine_inputs(self, first: int) -> None:
        """Fill ``shifted`` for the block of outputs that begins at this slice."""
        if not self.nested:
            for source, planes in self._sources:
                torch.mm(self._combine[0], source[first], out=planes[0])
            return
        start, stop = max(first - 1, 0), min(first - 1 + PLANES, self._depth)
        combine = self._inputs[:, start - first + 1 : stop - first + 1]
        for source, planes in self._sources:
            torch.mm(combine, source[start:stop].flatten(1), out=self._half_inputs.flatten(1))
            torch.bmm(self._combine, self._half_inputs, out=planes)

    def combine_outputs(self, first: int) -> None:
        """Write the outputs from ``products`` to the slices from this one on."""
        there = min(self.slices, self._depth - first)
        if self.nested:
            torch.mm(self._outputs[:there], self.products.view(PLANES, -1), out=self._half_outputs[:there])
        for result, half in zip(self._results, self._output_rows(self._half_outputs), strict=True):
            torch.bmm(self._write[:there], half[:there], out=result[first : first + there])

    def split_outputs(self, first: int) -> Tensor:
        """(P, L, C'), gradients of the products from those of the outputs: the transpose of `combine_outputs`."""
        there = min(self.slices, self._depth - first)
        spread = self._write[:there].transpose(1, 2)
        for result, half in zip(self._results, self._output_rows(self._half_grads), strict=True):
            torch.bmm(spread, result[first : first + there], out=half[:there])
        if not self.nested:
            return self._half_grads.view_as(self.products)
        torch.mm(self._outputs[:there].T, self._half_grads[:there], out=self.products.view(PLANES, -1))
        return self.products

    @cached_property
    def _half_grads(self) -> Tensor:
        """Memory whose columns beside the volume stay 0."""
        return torch.zeros(self.slices, PLANES * self.rows * self.outputs, dtype=self.products.dtype)

    def _output_rows(self, half: Tensor) -> Iterator[Tensor]:
        """(slices, planes of the height and tiles, W C') of each sample."""
        rows = half.view(self.slices, PLANES * self.tiles, self.samples, -1)
        return (rows[:, :, sample, : self.width * self.outputs] for sample in range(self.samples))


@lru_cache(maxsize=64)
def _banded_inputs(tiles: int, dtype: torch.dtype) -> Tensor:
    """(6 tiles, 4 tiles + 2) combines the inputs of several tiles; the tile is the faster axis of the result."""
    banded = torch.zeros(PLANES, tiles, tiles * TILE + _OVERLAP, dtype=dtype)
    for tile in range(tiles):
        banded[:, tile, tile * TILE : tile * TILE + PLANES] = _INPUTS
    return banded.flatten(0, 1)


@lru_cache(maxsize=64)
def _banded_outputs(tiles: int, dtype: torch.dtype) -> Tensor:
    """(4 tiles, 6 tiles) gives the outputs of several tiles from products in the order of `_banded_inputs`."""
    banded = torch.zeros(tiles, TILE, PLANES, tiles, dtype=dtype)
    for tile in range(tiles):
        banded[tile, :, :, tile] = _OUTPUTS
    return banded.view(tiles * TILE, PLANES * tiles)


def _planes(depth_taps: int) -> int:
    return PLANES**2 if depth_taps == 3 else PLANES


def _tiles(length: int) -> int:
    return -(-length // TILE)


def _even_share(length: int, largest: int) -> int:
    """Length of the parts if there are as few as possible and they are about equal."""
    return -(-length // -(-length // largest))
