"""The layers that both U-Nets are made of (recipe 8.1 to 8.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from segflow.core.topology import NetworkTopology
from segflow.network.convolution import (
    Convolution2d,
    Convolution3d,
    Pointwise2d,
    Pointwise3d,
    Upsampling2d,
    Upsampling3d,
    in_format_of,
)
from segflow.network.normalization import InstanceNorm

CONVOLUTION: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: Convolution2d, 3: Convolution3d}
POINTWISE: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: Pointwise2d, 3: Pointwise3d}
UPSAMPLING: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: Upsampling2d,
    3: Upsampling3d,
}


class ConvBlock(nn.Module):
    """Convolution, normalisation, leaky ReLU.

    Args:
        topology: Says dimensions, normalisation, slope and whether the convolution has a bias.
        in_channels, out_channels: Feature maps.
        kernel_size: Odd, one entry per spatial axis; padded so that stride 1 keeps the shape.
        stride: One entry per spatial axis.
        activate: False leaves out the leaky ReLU.
        bias: Overrides the topology's.
    """

    def __init__(
        self,
        topology: NetworkTopology,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
        *,
        activate: bool = True,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.conv = CONVOLUTION[topology.spatial_dims](
            in_channels,
            out_channels,
            tuple(kernel_size),
            stride=tuple(stride or (1,) * topology.spatial_dims),
            padding=tuple((k - 1) // 2 for k in kernel_size),
            bias=topology.conv_bias if bias is None else bias,
        )
        self.norm = build_norm(topology, out_channels)
        self.negative_slope = topology.negative_slope if activate else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, *spatial) → (B, out_channels, *spatial / stride)."""
        x = self.conv(x)
        if isinstance(self.norm, InstanceNorm):
            return self.norm(x, self.negative_slope)
        x = self.norm(x)
        return x if self.negative_slope == 1 else functional.leaky_relu(x, self.negative_slope, inplace=True)


def build_norm(topology: NetworkTopology, features: int) -> nn.Module:
    """The normalisation that the topology names."""
    if topology.norm == "instance":
        return InstanceNorm(features, topology.norm_eps)
    # Torch's own class, so that nn.SyncBatchNorm.convert_sync_batchnorm recognises it.
    return {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[topology.spatial_dims](features, eps=topology.norm_eps)


class ConvStack(nn.Module):
    """Convolution blocks one after the other; the first carries the stride and changes the number of features."""

    def __init__(
        self,
        topology: NetworkTopology,
        count: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ConvBlock(topology, in_channels, out_channels, kernel_size, stride),
            *(ConvBlock(topology, out_channels, out_channels, kernel_size) for _ in range(count - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, *spatial) → (B, out_channels, *spatial / stride)."""
        result: Tensor = self.blocks(x)
        return result


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut around them, joined before the last activation (recipe 8.3, ResNet-D).

    Args:
        topology: See `ConvBlock`.
        in_channels, out_channels: Feature maps; where they differ the shortcut has a 1x1 convolution without bias.
        kernel_size: Of both convolutions.
        stride: Of the first convolution; the shortcut averages over as many voxels.
    """

    def __init__(
        self,
        topology: NetworkTopology,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        ones = (1,) * topology.spatial_dims
        self.conv1 = ConvBlock(topology, in_channels, out_channels, kernel_size, stride)
        self.conv2 = ConvBlock(topology, out_channels, out_channels, kernel_size, activate=False)
        self.shortcut = (
            ConvBlock(topology, in_channels, out_channels, ones, activate=False, bias=False)
            if in_channels != out_channels
            else nn.Identity()
        )
        self.pool_size = tuple(stride)
        self.negative_slope = topology.negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, *spatial) → (B, out_channels, *spatial / stride)."""
        shortcut = x
        if any(n != 1 for n in self.pool_size):
            pool = functional.avg_pool2d if len(self.pool_size) == 2 else functional.avg_pool3d
            shortcut = in_format_of(x, pool(x, self.pool_size, self.pool_size))
        result = self.conv2(self.conv1(x)) + self.shortcut(shortcut)
        return functional.leaky_relu(result, self.negative_slope, inplace=True)


def joined(upsampled: Tensor, skip: Tensor) -> Tensor:
    """Both along the channels, upsampled first (recipe 8.2)."""
    return torch.cat((upsampled, skip), dim=1)
