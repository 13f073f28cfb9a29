"""The residual encoder (recipe 8.3)."""

from __future__ import annotations

from torch import Tensor, nn

from segflow.core.topology import NetworkTopology
from segflow.network.blocks import ConvBlock, ResidualBlock


class ResidualEncoder(nn.Module):
    """A stem, then one sequence of residual blocks per level. Its first block has the level's stride.

    Args:
        topology: Levels, finest first.
        in_channels: Channels of the image.
    """

    def __init__(self, topology: NetworkTopology, in_channels: int) -> None:
        super().__init__()
        ones = (1,) * topology.spatial_dims
        self.stem = ConvBlock(topology, in_channels, topology.features[0], topology.kernel_sizes[0])
        self.stages = nn.ModuleList()
        features = topology.features[0]
        for level, count in enumerate(topology.encoder_blocks):
            blocks = []
            for block in range(count):
                stride = topology.strides[level] if block == 0 else ones
                width = topology.features[level]
                blocks.append(ResidualBlock(topology, features, width, topology.kernel_sizes[level], stride))
                features = width
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, *patch) → features of every level, finest first."""
        levels: list[Tensor] = []
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels
