"""Swin UNETR (Hatamizadeh et al. 2022, arXiv 2201.01266): its options, parameters and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from segflow.core.errors import SegflowError
from segflow.core.networks.kind import Limits, NetworkKind
from segflow.core.networks.level_sizes import voxels_of_levels

if TYPE_CHECKING:
    from segflow.core.topology import NetworkTopology

LEVELS = 6
"""Voxels, and five resolutions of tokens."""

FACTOR = 12
"""Features of the finest level are a multiple of this."""


OF_TOKEN, OF_FILLED = 10, 6
"""Tensors, in the features of a level, that a block of attention keeps of each token, and of each token of its windows,
which are filled up."""

OF_MERGING = 3
"""Tensors that the step to the next level keeps of each token."""

IN_RESIDUAL = 4
"""Tensors that a residual block keeps beside its input."""

SKIPS, DECODED = (0, 1, 2, 3, 5), (0, 1, 2, 3, 4)
"""Levels with a residual block for the skip, and in the decoder."""


class SwinUNETRKind(NetworkKind):
    """Swin UNETR.

    Its topology has six levels: the voxels, and tokens of five resolutions. Levels 1 to 4 have ``encoder_blocks``
    blocks of attention within windows. Levels 0, 1, 2, 3 and 5 have a residual block for the skip, and each level of
    the decoder has one.

    Options: ``heads`` of each attention at level 1, twice as many at each further level; ``window``, the tokens along
    each axis of a window; ``recompute``, 1 if training computes the attention again in place of keeping it.
    """

    name: ClassVar[str] = "swin_unetr"
    options: ClassVar[Mapping[str, Limits]] = {
        "heads": Limits(1, 64),
        "window": Limits(2, 16),
        "recompute": Limits(0, 1),
    }

    def features(self, first: int, most: int, levels: int) -> tuple[int, ...]:
        """Voxels and the finest tokens have ``first`` features, coarser ones twice as many at each level."""
        return tuple(first * 2 ** max(level - 1, 0) for level in range(levels))

    def check(self, topology: NetworkTopology) -> None:
        """Refuse a topology that the network cannot have.

        Raises:
            SegflowError: Its levels, strides, kernels, features or blocks are not those of the network.
        """
        super().check(topology)
        dims, first = topology.spatial_dims, topology.features[0]
        if topology.strides != ((1,) * dims,) + ((2,) * dims,) * (LEVELS - 1):
            raise SegflowError(
                "the network 'swin_unetr' has six levels and halves all axes",
                found=f"strides {[list(stride) for stride in topology.strides]}",
                expected="planner.strides=[1,2,2,2,2,2]",
            )
        heads = topology.options["heads"]
        if topology.features != self.features(first, first, LEVELS) or first % FACTOR or first % heads:
            raise SegflowError(
                f"the features of 'swin_unetr' must be divisible by {FACTOR} and by its heads",
                found=f"{list(topology.features)}, {heads} heads",
                expected="planner.base_features=48 with 3 heads, as published, or 12, 24, 36 …",
            )
        fixed = (topology.encoder_blocks[0], topology.encoder_blocks[-1], *topology.decoder_convs)
        if set(fixed) != {1} or set(sum(topology.kernel_sizes, ())) != {3}:
            raise SegflowError(
                "the network 'swin_unetr' has single blocks at both ends and in its decoder, and kernels of 3",
                found=f"encoder {list(topology.encoder_blocks)}, decoder {list(topology.decoder_convs)}, "
                f"kernels {[list(kernel) for kernel in topology.kernel_sizes]}",
                expected="planner.encoder_blocks=[1,2,2,2,2,1] planner.decoder_convs=[1,1,1,1,1] planner.kernel_size=3",
            )

    def parameters(self, topology: NetworkTopology, in_channels: int, out_channels: int) -> int:
        """Number of parameters."""
        dims, features, options = topology.spatial_dims, topology.features, topology.options
        first, cells = features[0], 2**dims
        total = (in_channels * cells + 1) * first + (first + 1) * out_channels
        for level in range(1, LEVELS - 1):
            width, heads = features[level], options["heads"] * 2 ** (level - 1)
            places = (2 * options["window"] - 1) ** dims * heads
            block = 12 * width * width + 13 * width + places  # q, k, v, result, MLP of four times the width; two norms
            total += topology.encoder_blocks[level] * block + 2 * cells * width * (1 + width)
        for _, given, width in self._residual_blocks(topology, in_channels):
            total += 3**dims * (given + width) * width + (given * width if given != width else 0)
        return int(total + sum(cells * a * b for a, b in pairwise(features)))

    def kept_values(
        self, topology: NetworkTopology, patch_size: Sequence[int], in_channels: int, out_channels: int
    ) -> int:
        """Numbers that a training step keeps of one sample between its passes."""
        voxels, features = voxels_of_levels(topology, patch_size), topology.features
        kept = again = 0
        for level in range(1, LEVELS - 1):
            shape = [n // 2**level for n in patch_size]
            within = self._of_attention(topology, level, shape)
            if topology.options["recompute"]:  # only inputs are kept, and one block at a time is computed again
                again = max(again, within)
                within = 2 * features[level] * voxels[level]
            kept += topology.encoder_blocks[level] * within
            kept += OF_MERGING * features[level] * voxels[level]
        for level, given, width in self._residual_blocks(topology, in_channels):
            shortcut = 1 if given != width else 0
            kept += (given + (IN_RESIDUAL + shortcut) * width) * voxels[level]
        return int(kept + again)

    def _of_attention(self, topology: NetworkTopology, level: int, shape: Sequence[int]) -> int:
        """Numbers that a block of attention keeps. It fills up the tokens to whole windows."""
        width, options = topology.features[level], topology.options
        window = [max(min(options["window"], n), 1) for n in shape]
        filled = math.prod(-(-n // w) * w for n, w in zip(shape, window, strict=True))
        weights = options["heads"] * 2 ** (level - 1) * math.prod(window)
        return int(OF_TOKEN * width * math.prod(shape) + (OF_FILLED * width + weights) * filled)

    def _residual_blocks(self, topology: NetworkTopology, in_channels: int) -> list[tuple[int, int, int]]:
        """Level, features before and features after each residual block."""
        features = topology.features
        skips = [(level, features[level] if level else in_channels, features[level]) for level in SKIPS]
        return skips + [(level, 2 * features[level], features[level]) for level in DECODED]

    def check_patch(self, topology: NetworkTopology, patch_size: Sequence[int]) -> None:
        """Refuse a patch of which the coarsest level has a single token, whose norm is not defined.

        Raises:
            SegflowError: It is such a patch.
        """
        edge = 2 ** (LEVELS - 1)
        if math.prod(patch_size) <= edge ** len(patch_size):
            larger = [edge] * (len(patch_size) - 1) + [2 * edge]
            raise SegflowError(
                "the patch is too small for the network 'swin_unetr'",
                found=list(patch_size),
                expected=f"{larger} or more",
                fix="Choose another network if cases are smaller, else raise planner.memory_target_gb or set "
                f"configuration.patch_size={str(larger).replace(' ', '')}.",
            )
