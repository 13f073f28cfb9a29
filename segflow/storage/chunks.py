"""Shapes of chunks and blocks of compressed arrays, so that reading one patch decompresses little (recipe 4.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BLOCK_BYTES = 128 * 1024
_CHUNK_BYTES = 6 * 1024**2
_CHUNK_TO_PATCH = 1.5

Shape4 = tuple[int, ...]


def chunk_and_block(shape: Sequence[int], patch_size: Sequence[int], item_bytes: int) -> tuple[Shape4, Shape4]:
    """Shapes of chunks (unit of reading) and blocks (unit of decompression) for an array.

    Args:
        shape: (C, Z, Y, X).
        patch_size: Voxels of a training patch. 2D has two entries and reads one slice at a time.
        item_bytes: Bytes of one voxel.

    Returns:
        Chunk and block, four entries each; both hold one channel.
    """
    spatial = tuple(int(n) for n in shape[1:])
    patch = (1, *patch_size) if len(patch_size) == 2 else tuple(patch_size)
    wanted = tuple(max(1, min(n, math.floor(_CHUNK_TO_PATCH * p))) for n, p in zip(spatial, patch, strict=True))
    block = [min(1 << max(0, p - 1).bit_length(), n) for n, p in zip(spatial, patch, strict=True)]
    while math.prod(block) * item_bytes > _BLOCK_BYTES:
        axis = max((a for a in range(3) if block[a] > 1), key=lambda a: (block[a] / wanted[a], a))
        block[axis] = 1 << ((block[axis] - 1).bit_length() - 1)
    chunk = _grow(block, spatial, patch, wanted, item_bytes)
    return (1, *chunk), (1, *block)


def _grow(
    block: Sequence[int], spatial: Sequence[int], patch: Sequence[int], wanted: Sequence[int], item_bytes: int
) -> list[int]:
    """Add blocks along the axis that covers the smallest part of its target, while the chunk stays small enough."""
    chunk = list(block)
    while True:
        candidates = []
        for axis in range(3):
            limit = min(spatial[axis], wanted[axis])
            if patch[axis] == 1 or chunk[axis] >= limit:
                continue
            grown = chunk.copy()
            grown[axis] = min(chunk[axis] + block[axis], limit)
            if math.prod(grown) * item_bytes <= _CHUNK_BYTES:
                candidates.append((chunk[axis] / wanted[axis], -spatial[axis], axis, grown))
        if not candidates:
            return chunk
        chunk = min(candidates)[3]
