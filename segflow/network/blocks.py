"""The layers that both U-Nets are made of (recipe 8.1 to 8.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from segflow.core.topology import NetworkTopology
from segflow.network.norms import InstanceNorm2d, InstanceNorm3d

CONVOLUTION: dict[int, Callable[..., nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
UPSAMPLING: dict[int, Callable[..., nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
POOLING: dict[int, Callable[..., nn.AvgPool2d | nn.AvgPool3d]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
INSTANCE_NORM: dict[int, Callable[..., nn.InstanceNorm2d | nn.InstanceNorm3d]] = {2: InstanceNorm2d, 3: InstanceNorm3d}
BATCH_NORM: dict[int, Callable[..., nn.BatchNorm2d | nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class ConvBlock(nn.Sequential):
    """Convolution, normalisation, leaky ReLU: (B, in_channels, *spatial) → (B, out_channels, *spatial / stride).

    Args:
        topology: Gives dimensions, normalisation, slope, and whether the convolution has a bias.
        in_channels, out_channels: Numbers of feature maps.
        kernel_size: Odd, one entry per spatial axis. Padding keeps the shape at stride 1.
        stride: One entry per spatial axis.
        activate: False leaves out the leaky ReLU.
        bias: Overrides the topology's setting.
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
        if activate:
            self.activation = nn.LeakyReLU(topology.negative_slope, inplace=True)


def build_norm(topology: NetworkTopology, features: int) -> nn.Module:
    """The topology's normalisation, with learnt scale and shift."""
    if topology.norm == "instance":
        return INSTANCE_NORM[topology.spatial_dims](features, eps=topology.norm_eps, affine=True)
    return BATCH_NORM[topology.spatial_dims](features, eps=topology.norm_eps)


class ConvStack(nn.Module):
    """A sequence of convolution blocks. The first has the stride and changes the number of features."""

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
    """Two convolutions and a shortcut, added before the last activation (recipe 8.3, ResNet-D).

    Args:
        topology: See `ConvBlock`.
        in_channels, out_channels: Numbers of feature maps. If they differ, the shortcut has a 1x1 convolution without
            bias.
        kernel_size: Kernel of both convolutions.
        stride: Stride of the first convolution. The shortcut averages over as many voxels.
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
        self.pool = nn.Identity() if tuple(stride) == ones else POOLING[topology.spatial_dims](tuple(stride))
        self.shortcut = (
            ConvBlock(topology, in_channels, out_channels, ones, activate=False, bias=False)
            if in_channels != out_channels
            else nn.Identity()
        )
        self.activation = nn.LeakyReLU(topology.negative_slope, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, *spatial) → (B, out_channels, *spatial / stride)."""
        pooled = self.pool(x)
        result: Tensor = self.activation(self.conv2(self.conv1(x)) + self.shortcut(pooled))
        return result
