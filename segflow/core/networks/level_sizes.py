"""Sizes of the levels of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segflow.core.topology import NetworkTopology


def voxels_of_levels(topology: NetworkTopology, patch_size: Sequence[int]) -> list[int]:
    """Voxels of each level's feature maps, finest first.

    Args:
        topology: The network.
        patch_size: Voxels of its input.
    """
    shape, voxels = list(patch_size), []
    for stride in topology.strides:
        shape = [n // s for n, s in zip(shape, stride, strict=True)]
        voxels.append(math.prod(shape))
    return voxels
