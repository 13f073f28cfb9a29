"""Primus: a vision transformer for volumes (Wald et al. 2025, arXiv 2503.01835)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from segflow.core.errors import SegflowError
from segflow.core.networks.primus_kind import decoder_widths, mlp_width, patch_of_tokens
from segflow.core.topology import NetworkTopology
from segflow.network.segmentation_network import SegmentationNetwork

_LOWEST_FREQUENCY = 1e-4
"""Radians by which the slowest pair of features turns from one token to the next; the fastest turns by 1."""


class DropPath(nn.Module):
    """Zeroes the whole of randomly chosen samples in training, and scales the others so that the mean stays.

    It draws from the device's global generator, which training seeds anew for each epoch, so that a run that was
    interrupted draws the same.

    Args:
        rate: Probability of a sample to be zeroed.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """x (B, tokens, features) → the same shape."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(len(x), 1, 1).bernoulli_(1 - self.rate)
        return x * (kept / (1 - self.rate))


class Attention(nn.Module):
    """Attention among all tokens, with positions told by rotation, and a norm before the last layer.

    Args:
        width: Features of a token.
        heads: Parts of the features with an attention of their own.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x (B, tokens, features), cosine and sine (tokens, features of a head) → the shape of x."""
        query, key, value = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        query, key = (rotated(one, cosine, sine).type_as(value) for one in (query, key))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.project(self.norm(mixed.transpose(1, 2).flatten(2)))
        return result


class GatedMLP(nn.Module):
    """A layer with a gate (SwiGLU), a norm, and a layer back.

    Args:
        width: Features of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = mlp_width(width)
        self.gate, self.widen = nn.Linear(width, inner), nn.Linear(width, inner)
        self.norm, self.narrow = nn.LayerNorm(inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, tokens, features) → the same shape."""
        result: Tensor = self.narrow(self.norm(functional.silu(self.gate(x)) * self.widen(x)))
        return result


class TransformerBlock(nn.Module):
    """Attention and MLP, each after a norm, scaled per feature, and added.

    Args:
        width: Features of a token.
        heads: See `Attention`.
        layer_scale: First value of the scales.
        drop_path: Probability of a sample to skip each of the two.
    """

    def __init__(self, width: int, heads: int, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.scale1 = nn.Parameter(torch.full((width,), float(layer_scale)))
        self.norm2, self.mlp = nn.LayerNorm(width), GatedMLP(width)
        self.scale2 = nn.Parameter(torch.full((width,), float(layer_scale)))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x (B, tokens, features), cosine and sine (tokens, features of a head) → the shape of x."""
        x = x + self.drop_path(self.scale1 * self.attention(self.norm1(x), cosine, sine))
        result: Tensor = x + self.drop_path(self.scale2 * self.mlp(self.norm2(x)))
        return result


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each voxel."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *spatial) → the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Primus(SegmentationNetwork):
    """Tokens of cubes of voxels, transformer blocks, and a decoder of transposed convolutions.

    It gives logits of the finest level only, and takes patches of one shape.

    Args:
        topology: Has two levels and the options of `PrimusKind`.
        in_channels: Channels of the image.
        out_channels: Channels of the logits.
        deep_supervision: Has no effect.
        memory_format: See `SegmentationNetwork`; ``auto`` is the format of the image.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self,
        topology: NetworkTopology,
        in_channels: int,
        out_channels: int,
        deep_supervision: bool = True,
        memory_format: str = "auto",
    ) -> None:
        super().__init__(topology, deep_supervision, "contiguous" if memory_format == "auto" else memory_format)
        width, edge, options = topology.features[-1], topology.strides[-1][0], topology.options
        depth, heads = topology.encoder_blocks[-1], options["heads"]
        self.patch = patch_of_tokens(topology)
        self.grid = tuple(n // edge for n in self.patch)
        self.stem = nn.Conv3d(in_channels, width, edge, stride=edge)
        self.places = nn.Parameter(torch.zeros(1, math.prod(self.grid), width))
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, options["layer_scale"], options["drop_path"] * block / max(depth - 1, 1))
            for block in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        widths = decoder_widths(width, edge, out_channels)
        self.decoder = nn.Sequential(
            *(
                layer
                for first, last in pairwise(widths[:-1])
                for layer in (
                    nn.ConvTranspose3d(first, last, 2, stride=2),
                    ChannelNorm(last, eps=1e-6),
                    nn.GELU(),
                )
            )
        )
        self.heads = nn.ModuleList([nn.ConvTranspose3d(widths[-2], out_channels, 2, stride=2)])
        cosine, sine = rotations(self.grid, width // heads)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self._initialize()

    @property
    def widest(self) -> int:
        """Numbers for each voxel of the widest tensor: tokens within an MLP, or the result of a step of the decoder."""
        wide = [mlp_width(self.topology.features[-1])]
        for layer in self.decoder:
            if isinstance(layer, nn.ConvTranspose3d):
                wide.append(layer.out_channels * 8 ** len(wide))  # each step has 8 times the voxels
        return int(max(wide) // self.topology.strides[-1][0] ** 3 + 1)

    def levels(self, image: Tensor) -> list[Tensor]:
        """image (B, C, *patch) → a list of the logits (B, K, *patch).

        Raises:
            SegflowError: The patch is another than that of the plan.
        """
        if tuple(image.shape[2:]) != self.patch:
            raise SegflowError(
                "the network 'primus' takes patches of one shape",
                found=list(image.shape[2:]),
                expected=list(self.patch),
            )
        x = self.stem(image).flatten(2).transpose(1, 2) + self.places
        for block in self.blocks:
            x = block(x, self.cosine, self.sine)
        x = self.norm(x).transpose(1, 2).unflatten(2, self.grid)
        return [self.heads[0](self.decoder(x))]

    def _initialize(self) -> None:
        """Draw the weights from torch's global generator."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.places, std=0.02)
        with torch.no_grad():
            for number, block in enumerate(self.blocks, start=1):
                assert isinstance(block, TransformerBlock)
                for layer in (block.attention.project, block.mlp.narrow):
                    layer.weight.div_(math.sqrt(2 * number))


def rotations(grid: Sequence[int], features: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine (tokens, features) of the angle by which each pair of a head's features turns.

    A third of the pairs turns with the place along each axis, from fast to slow.

    Args:
        grid: Tokens along each of three axes.
        features: Features of a head, divisible by 6.
    """
    pairs = features // 6
    frequencies = _LOWEST_FREQUENCY ** (torch.arange(pairs, dtype=torch.float32) / pairs)
    places = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij"), -1)
    angles = (places.unsqueeze(-1) * frequencies).flatten(3).flatten(0, 2).repeat_interleave(2, -1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x (…, tokens, features) with each pair of features turned by its angle."""
    turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * cosine + turned * sine
