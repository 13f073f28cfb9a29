"""MedNeXt (Roy et al. 2023, arXiv 2303.09975): its options, parameters and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from segflow.core.networks.kind import Limits, NetworkKind

if TYPE_CHECKING:
    from segflow.core.topology import NetworkTopology

IN_NARROW, IN_WIDE = 2, 2
"""Tensors that a block keeps beside its input: the inputs of its norm and of the wider convolution, with the block's
features; those of the activation and of the convolution after it, with the expanded features."""


class MedNeXtKind(NetworkKind):
    """MedNeXt.

    Its topology has ``encoder_blocks`` and ``decoder_convs`` blocks of a level, besides those that change the
    resolution. Options: ``expansion``, the factor on the features within the blocks of each level; ``recompute``, 1 if
    training keeps only the inputs of blocks and computes the rest again, which needs less memory and more time.
    """

    name: ClassVar[str] = "mednext"
    options: ClassVar[Mapping[str, Limits]] = {"expansion": Limits(1, 16, per_level=True), "recompute": Limits(0, 1)}

    def parameters(self, topology: NetworkTopology, in_channels: int, out_channels: int) -> int:
        """Number of parameters, those of unused heads included."""
        features, expansion = topology.features, topology.options["expansion"]
        total = (in_channels + 1) * features[0]
        for level, width in enumerate(features):
            total += self._blocks(topology, level) * _block(width, width, expansion[level], topology, level)
            if level < topology.levels - 1:
                below = features[level + 1]
                for first, last in ((width, below), (below, width)):  # down, up; each with a shortcut
                    total += _block(first, last, expansion[level], topology, level) + (first + 1) * last
        heads = sum((width + 1) * out_channels for width in features[: max(topology.levels - 1, 1)])
        return int(total + heads)

    def kept_values(
        self, topology: NetworkTopology, patch_size: Sequence[int], in_channels: int, out_channels: int
    ) -> int:
        """Numbers that a training step keeps of one sample between its passes."""
        shape, voxels = list(patch_size), []
        for stride in topology.strides:
            shape = [n // s for n, s in zip(shape, stride, strict=True)]
            voxels.append(math.prod(shape))
        features, expansion = topology.features, topology.options["expansion"]
        inputs = in_channels * voxels[0] + features[0] * voxels[0]  # of the stem, and of the finest head
        inner = []
        for level, width in enumerate(features):
            within = IN_NARROW + IN_WIDE * expansion[level]
            blocks = self._blocks(topology, level)
            inputs += blocks * width * voxels[level]
            inner += [within * width * voxels[level]] * blocks
            if level < topology.levels - 1:
                below = features[level + 1]
                inputs += width * voxels[level] + below * voxels[level + 1]  # of the blocks down and up
                inner += [within * width * voxels[level + 1], within * below * voxels[level]]
        return int(inputs + (max(inner) if topology.options["recompute"] else sum(inner)))

    def _blocks(self, topology: NetworkTopology, level: int) -> int:
        """Blocks of a level that keep its resolution."""
        decoder = topology.decoder_convs[topology.levels - 2 - level] if level < topology.levels - 1 else 0
        return topology.encoder_blocks[level] + decoder


def _block(first: int, last: int, expansion: int, topology: NetworkTopology, level: int) -> int:
    """Parameters of a block: a depthwise convolution, a norm, a wider and a narrower convolution.

    The blocks that lead down from a level and up to it have its expansion and kernel.
    """
    wide = expansion * first
    depthwise = (math.prod(topology.kernel_sizes[level]) + 1) * first
    return depthwise + 2 * first + (first + 1) * wide + (wide + 1) * last
