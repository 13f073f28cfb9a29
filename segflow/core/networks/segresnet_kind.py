"""SegResNet (Myronenko 2018, arXiv 1810.11654), as MONAI's SegResNetDS: its parameters and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from segflow.core.networks.kind import NetworkKind
from segflow.core.networks.level_sizes import voxels_of_levels

if TYPE_CHECKING:
    from segflow.core.topology import NetworkTopology

IN_BLOCK = 4
"""Tensors that a block keeps: its input, the results of both activations, and of the first convolution."""


class SegResNetKind(NetworkKind):
    """SegResNet.

    Its topology has ``encoder_blocks`` and ``decoder_convs`` residual blocks of a level. It has no options.
    """

    name: ClassVar[str] = "segresnet"

    def parameters(self, topology: NetworkTopology, in_channels: int, out_channels: int) -> int:
        """Number of parameters, those of unused heads included."""
        kernels = [math.prod(kernel) for kernel in topology.kernel_sizes]
        total = kernels[0] * in_channels * topology.features[0]
        for level, width in enumerate(topology.features):
            total += _blocks(topology, level) * 2 * (kernels[level] * width * width + 2 * width)
            if level < topology.levels - 1:
                total += 2 * kernels[level] * width * topology.features[level + 1]  # down, up
        heads = sum((width + 1) * out_channels for width in topology.features[: max(topology.levels - 1, 1)])
        return int(total + heads)

    def kept_values(
        self, topology: NetworkTopology, patch_size: Sequence[int], in_channels: int, out_channels: int
    ) -> int:
        """Numbers that a training step keeps of one sample between its passes."""
        voxels = voxels_of_levels(topology, patch_size)
        kept = in_channels * voxels[0]
        for level, width in enumerate(topology.features):
            results = 1 if level == topology.levels - 1 else 2  # of encoder and decoder, for what follows them
            kept += (IN_BLOCK * _blocks(topology, level) + results) * width * voxels[level]
        return int(kept)


def _blocks(topology: NetworkTopology, level: int) -> int:
    decoder = topology.decoder_convs[topology.levels - 2 - level] if level < topology.levels - 1 else 0
    return topology.encoder_blocks[level] + decoder
