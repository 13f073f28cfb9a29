"""Primus (Wald et al. 2025, arXiv 2503.01835): its options, parameters and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from segflow.core.errors import SegflowError
from segflow.core.networks.kind import Limits, NetworkKind

if TYPE_CHECKING:
    from segflow.core.topology import NetworkTopology

AXES = ("z", "y", "x")

LEAST_FEATURES = 8
"""Features of the decoder are multiples of this."""

IN_NARROW, IN_WIDE = 11, 5
"""Tensors that a block keeps: with the block's features the inputs of both norms and of all linear layers, the three
inputs and the result of the attention, and what the layer scales multiply; the others with the features of the MLP."""

IN_DECODER = 3
"""Tensors that a step of the decoder keeps: the result of the convolution, its norm, and the activation."""


class PrimusKind(NetworkKind):
    """Primus, a vision transformer for volumes.

    Its topology has two levels: the voxels, and the tokens, of which each is a cube of ``strides[1]`` voxels. The
    second entry of ``features`` is the width of a token, and that of ``encoder_blocks`` the number of blocks.

    Options: ``heads`` of each attention; ``drop_path``, the share of samples that skip the last block, fewer before;
    ``layer_scale``, the first factor on the result of a block; ``tokens_z``, ``tokens_y`` and ``tokens_x``, the patch
    in tokens, which planning writes, since the network learns a vector for each place of a patch.
    """

    name: ClassVar[str] = "primus"
    dimensions: ClassVar[tuple[int, ...]] = (3,)
    options: ClassVar[Mapping[str, Limits]] = {
        "heads": Limits(1, 64),
        "drop_path": Limits(0, 0.9, whole=False),
        "layer_scale": Limits(1e-6, 1, whole=False),
        **{f"tokens_{axis}": Limits(1, 512) for axis in AXES},
    }

    def features(self, first: int, most: int, levels: int) -> tuple[int, ...]:
        """``first`` is the width of a token. Voxels have no features but those that the decoder ends with."""
        return (LEAST_FEATURES,) + (first,) * (levels - 1)

    def check(self, topology: NetworkTopology) -> None:
        """Refuse a topology that the network cannot have.

        Raises:
            SegflowError: It is not of two levels, tokens are no cubes of 2, 4, 8 … voxels, or an option is wrong.
        """
        super().check(topology)
        edges = set(topology.strides[-1])
        edge = min(edges)
        if topology.levels != 2 or len(edges) != 1 or edge < 2 or edge & (edge - 1):
            raise SegflowError(
                "the tokens of 'primus' must be cubes whose edge is a power of two",
                found=f"strides {[list(stride) for stride in topology.strides]}",
                expected="planner.strides=[1,8]",
            )
        width, heads = topology.features[-1], topology.options["heads"]
        if width % (6 * heads):
            raise SegflowError(
                "the width of a token of 'primus' must be divisible by six times the heads",
                found=f"{width} features, {heads} heads",
                fix=f"The nearest are {max(width // (6 * heads), 1) * 6 * heads} and "
                f"{(width // (6 * heads) + 1) * 6 * heads}.",
            )

    def options_of_patch(self, patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The patch in tokens."""
        return {f"tokens_{axis}": n // s for axis, n, s in zip(AXES, patch_size, strides[-1], strict=True)}

    def check_patch(self, topology: NetworkTopology, patch_size: Sequence[int]) -> None:
        """Refuse a patch other than that of the tokens.

        Raises:
            SegflowError: It is another.
        """
        own = patch_of_tokens(topology)
        if tuple(patch_size) != own:
            raise SegflowError(
                "the network 'primus' has learnt places of another patch", found=list(patch_size), expected=list(own)
            )

    def parameters(self, topology: NetworkTopology, in_channels: int, out_channels: int) -> int:
        """Number of parameters."""
        width, edge = topology.features[-1], topology.strides[-1][0]
        inner = mlp_width(width)
        attention = 4 * width * width + 3 * width + 2 * width  # q, k, v, result; no bias of k; a norm
        mlp = 2 * (width + 1) * inner + 2 * inner + (inner + 1) * width
        block = attention + mlp + 2 * 2 * width + 2 * width  # two norms, two layer scales
        stem = (in_channels * edge**3 + 1) * width + _tokens(topology) * width
        widths = decoder_widths(width, edge, out_channels)
        decoder = sum((8 * a + 1) * b for a, b in pairwise(widths)) + 2 * sum(widths[1:-1])
        return int(stem + topology.encoder_blocks[-1] * block + 2 * width + decoder)

    def kept_values(
        self, topology: NetworkTopology, patch_size: Sequence[int], in_channels: int, out_channels: int
    ) -> int:
        """Numbers that a training step keeps of one sample between its passes."""
        width, edge, voxels = topology.features[-1], topology.strides[-1][0], math.prod(patch_size)
        tokens = voxels // edge**3
        block = (IN_NARROW * width + IN_WIDE * mlp_width(width) + topology.options["heads"]) * tokens
        ends = in_channels * voxels + 3 * width * tokens  # of the stem, the last norm, and the decoder
        decoder = sum(
            IN_DECODER * features * tokens * 8**step
            for step, features in enumerate(decoder_widths(width, edge, out_channels)[1:-1], start=1)
        )
        return int(topology.encoder_blocks[-1] * block + ends + decoder)


def patch_of_tokens(topology: NetworkTopology) -> tuple[int, ...]:
    """The patch, in voxels, whose places a Primus of this topology learns."""
    tokens = [topology.options[f"tokens_{axis}"] for axis in AXES]
    return tuple(n * s for n, s in zip(tokens, topology.strides[-1], strict=True))


def mlp_width(width: int) -> int:
    """Features within an MLP, which has two layers where others have one."""
    return 8 * width // 3


def decoder_widths(width: int, edge: int, out_channels: int) -> list[int]:
    """Features before and after each step of the decoder, which doubles the resolution.

    Args:
        width: Features of a token.
        edge: Voxels along a token, a power of two.
        out_channels: Channels of the logits.
    """
    steps = edge.bit_length() - 1
    factor = (width / (2 * out_channels)) ** (1 / steps)
    inner = [max(LEAST_FEATURES, round((width / factor**step + 1e-6) / 8) * 8) for step in range(1, steps)]
    return [width, *inner, out_channels]


def _tokens(topology: NetworkTopology) -> int:
    return math.prod(topology.options[f"tokens_{axis}"] for axis in AXES)
