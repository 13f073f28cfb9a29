"""The first weights (recipe 8.4)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from segflow.network.blocks import ResidualBlock
from segflow.network.unet import UNet

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def initialize(network: UNet, negative_slope: float) -> None:
    """Draw the weights from torch's global generator.

    Convolutions and transposed convolutions: Kaiming normal over the fan-in, biases 0. The last normalisation of a
    residual block is 0, so that every block begins as its shortcut.

    After ``torch.manual_seed(k)``, building a network and this give the very weights that nnU-Net has after the same:
    how soon a training leaves its first plateau depends on them, so that only equal ones make short runs comparable.
    """
    for module in _as_visited(network):
        nn.init.kaiming_normal_(module.weight, a=negative_slope)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            for parameter in module.conv2.norm.parameters():
                nn.init.zeros_(parameter)


def _as_visited(network: UNet) -> Iterator[nn.Module]:
    """Convolutions in the order in which nnU-Net draws them.

    Its blocks hold each convolution under two names and its decoder holds the encoder once more, so that some are
    drawn twice and four times; the last draw counts.
    """
    encoder = [module for module in network.encoder.modules() if isinstance(module, CONVOLUTIONS)]
    for _ in range(2):
        for module in encoder:
            yield from (module, module)
    for stage in network.decoder:
        for module in stage.stack.modules():
            if isinstance(module, CONVOLUTIONS):
                yield from (module, module)
    yield from (stage.up for stage in network.decoder)
    yield from network.heads
