"""The plain convolutional encoder (recipe 8.2)."""

from __future__ import annotations

from torch import Tensor, nn

from segflow.core.topology import NetworkTopology
from segflow.network.blocks import ConvStack


class PlainEncoder(nn.Module):
    """One stack of convolution blocks per level, which begins with the level's stride.

    Args:
        topology: Levels, finest first.
        in_channels: Channels of the image.
    """

    def __init__(self, topology: NetworkTopology, in_channels: int) -> None:
        super().__init__()
        inputs = (in_channels, *topology.features[:-1])
        self.stages = nn.ModuleList(
            ConvStack(topology, count, n_in, n_out, kernel, stride)
            for count, n_in, n_out, kernel, stride in zip(
                topology.encoder_blocks,
                inputs,
                topology.features,
                topology.kernel_sizes,
                topology.strides,
                strict=True,
            )
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, *patch) → features of every level, finest first."""
        levels: list[Tensor] = []
        x = image
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels
