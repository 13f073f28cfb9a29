"""Initial weights (recipe 8.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import nn

from segflow.network.blocks import ResidualBlock
from segflow.network.unet import DecoderStage, UNet

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Convolution = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d


def initialize(network: UNet, negative_slope: float) -> None:
    """Draw the weights from torch's global generator.

    Weights of convolutions and transposed convolutions are Kaiming normal over the fan-in, and biases are 0. The last
    normalisation of a residual block is 0, so that every block begins as its shortcut.

    After ``torch.manual_seed(k)`` the weights are exactly those that nnU-Net draws. When a training leaves its first
    plateau depends on them, so short runs can only be compared with equal ones.
    """
    for module in _as_visited(network):
        nn.init.kaiming_normal_(module.weight, a=negative_slope)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            for parameter in block.conv2.norm.parameters():
                nn.init.zeros_(parameter)


def _as_visited(network: UNet) -> Iterator[Convolution]:
    """Convolutions in the order in which nnU-Net draws them.

    Its blocks hold each convolution under two names, and its decoder holds the encoder again. Convolutions are
    therefore drawn twice or four times, and the last draw counts.
    """
    encoder = [module for module in network.encoder.modules() if isinstance(module, CONVOLUTIONS)]
    for _ in range(2):
        for module in encoder:
            yield from (module, module)
    decoder = cast("list[DecoderStage]", list(network.decoder))
    for stage in decoder:
        for layer in stage.stack.modules():
            if isinstance(layer, CONVOLUTIONS):
                yield from (layer, layer)
    yield from (stage.up for stage in decoder)
    yield from cast("list[Convolution]", list(network.heads))
