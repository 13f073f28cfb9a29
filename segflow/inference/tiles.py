"""Tiles that cover an image, and the weight of each voxel in a tile (recipe 11.4)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segflow.core.errors import SegflowError

MOST_TILES = 2_000_000
"""Largest number of tiles of an image; more would take days."""

PEAK_WEIGHT = 10.0
"""Weight at a tile's centre. Above 1, so that few weights vanish in float16 (recipe 11.4)."""


def tile_starts(size: int, patch: int, overlap: float = 0.5) -> tuple[int, ...]:
    """First voxel of every tile along one axis: evenly spread, rounded half to even.

    Args:
        size: Voxels of the image, at least ``patch``.
        patch: Voxels of the tile.
        overlap: Smallest share of a tile that it shares with the next.
    """
    count = math.ceil((size - patch) / (patch * (1.0 - overlap))) + 1
    step = (size - patch) / (count - 1) if count > 1 else 0.0
    return tuple(round(step * index) for index in range(count))


def gaussian_importance(patch_size: Sequence[int]) -> np.ndarray:
    """Weight of each voxel of a patch: a Gaussian with sigma = an eighth of the patch, 10 at ``patch // 2``.

    Weights are rounded to float16. Those that become 0 are replaced by the smallest other weight, as in nnU-Net, so
    that the mean is defined in the corners of the image too.

    Returns:
        float32, of shape ``patch_size``.
    """
    weights = np.ones((1,) * len(patch_size))
    for axis, size in enumerate(patch_size):
        line = _gaussian_at_middle(size)
        weights = weights * np.expand_dims(line, tuple(other for other in range(len(patch_size)) if other != axis))
    rounded = (weights / weights.max() * PEAK_WEIGHT).astype(np.float16)
    rounded[rounded == 0] = rounded[rounded > 0].min()
    importance: np.ndarray = rounded.astype(np.float32)
    return importance


def _gaussian_at_middle(size: int) -> np.ndarray:
    """A point at ``size // 2`` filtered as by ``scipy.ndimage.gaussian_filter1d``, which takes long to load."""
    sigma = size / 8
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    weights /= weights.sum()
    line = np.zeros(size)
    for distance in range(max(-radius, -(size // 2)), min(radius, size - 1 - size // 2) + 1):
        line[size // 2 + distance] = weights[radius + distance]
    return line


def mirrored_views(mirror_axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All subsets of the axes, the unmirrored view first."""
    axes = sorted(set(mirror_axes))
    return [subset for size in range(len(axes) + 1) for subset in itertools.combinations(axes, size)]


@dataclass(frozen=True, slots=True)
class Window:
    """The tiles of one image. Spatial tuples have three entries; a 2D patch is a slice of extent 1 along z.

    Attributes:
        shape: Voxels of the image after padding to at least one patch.
        patch: Voxels of a tile.
        flat: The network takes slices, (B, C, Y, X).
        starts: First voxel of each tile, in lexicographic order.
        overlapping: A voxel lies in more than one tile.
        inside: Place of the image within the padded one.
        padding: Zeros around the image, in the order of ``torch.nn.functional.pad``: last axis first.
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    flat: bool
    starts: tuple[tuple[int, ...], ...]
    overlapping: bool
    inside: tuple[slice, ...]
    padding: tuple[int, ...]

    @classmethod
    def over(cls, shape: Sequence[int], patch_size: Sequence[int], overlap: float) -> Window:
        """Cover an image (Z, Y, X) with patches of (z, y, x) or, slice by slice, of (y, x).

        An image that is smaller than the patch is padded on both sides, with an odd voxel at the end.
        """
        flat = len(patch_size) == 2
        patch = (1, *patch_size) if flat else tuple(patch_size)
        padded = tuple(max(n, p) for n, p in zip(shape, patch, strict=True))
        before = tuple((m - n) // 2 for m, n in zip(padded, shape, strict=True))
        along = [tile_starts(m, p, overlap) for m, p in zip(padded, patch, strict=True)]
        if flat:
            along[0] = tuple(range(padded[0]))
        if (count := math.prod(len(starts) for starts in along)) > MOST_TILES:
            raise SegflowError(
                "the image takes too many tiles",
                found=f"{count:,} of {list(patch)} voxels for {list(shape)}",
                expected=f"at most {MOST_TILES:,}",
                fix="Check the spacing of the image and the patch size of the model.",
            )
        pairs = [(b, m - n - b) for b, m, n in zip(before, padded, shape, strict=True)]
        return cls(
            shape=padded,
            patch=patch,
            flat=flat,
            starts=tuple(itertools.product(*along)),
            overlapping=any(len(starts) > 1 for starts in (along[1:] if flat else along)),
            inside=tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True)),
            padding=tuple(value for pair in reversed(pairs) for value in pair),
        )

    def tile(self, array: Tensor, start: Sequence[int]) -> Tensor:
        """The tile of (…, Z, Y, X) that begins at ``start``, as a view."""
        z, y, x = (slice(s, s + p) for s, p in zip(start, self.patch, strict=True))
        return array[..., z, y, x]


def constant_of(tile: Tensor) -> tuple[float, ...] | None:
    """The values of the channels of a tile (C, z, y, x) if each is constant, else None.

    Air and padding make many tiles constant. A network gives equal logits for equal input, so one pass serves all tiles
    of the same constant without any effect on the result.
    """
    first, last = tile[:, 0, 0, 0], tile[:, -1, -1, -1]
    # Opposite corners decide for nearly every tile, without looking at all voxels.
    if torch.equal(first, last) and bool((tile == first[:, None, None, None]).all()):
        return tuple(first.tolist())
    return None
