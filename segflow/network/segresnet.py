"""SegResNet: a U-Net of residual blocks that add, not append, the skip (Myronenko 2018, arXiv 1810.11654)."""

from __future__ import annotations

from torch import Tensor, nn

from segflow.core.topology import NetworkTopology
from segflow.network.adding_network import AddingNetwork
from segflow.network.blocks import CONVOLUTION, INSTANCE_NORM, UPSAMPLING


class PreActivationBlock(nn.Module):
    """Norm, ReLU and convolution, twice, added to the input.

    Args:
        topology: Gives dimensions, features and kernels.
        level: Its features and kernel are used.
    """

    def __init__(self, topology: NetworkTopology, level: int) -> None:
        super().__init__()
        dims, width, kernel = topology.spatial_dims, topology.features[level], topology.kernel_sizes[level]
        padding = tuple(size // 2 for size in kernel)
        self.layers = nn.Sequential(
            *(
                layer
                for _ in range(2)
                for layer in (
                    INSTANCE_NORM[dims](width, affine=True),
                    nn.ReLU(inplace=True),
                    CONVOLUTION[dims](width, width, kernel, padding=padding, bias=False),
                )
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *spatial) → the same shape."""
        result: Tensor = x + self.layers(x)
        return result


class SegResNet(AddingNetwork):
    """SegResNet with deep supervision and the plan's strides and kernels.

    With strides of 2 and kernels of 3 it is MONAI's SegResNetDS with instance norm. Weights keep torch's initial
    values, as there.

    Args:
        topology: Levels, features, kernels, strides, and blocks.
        in_channels: Channels of the image.
        out_channels: Channels of the logits.
        deep_supervision, memory_format: See `SegmentationNetwork`.
    """

    def __init__(
        self,
        topology: NetworkTopology,
        in_channels: int,
        out_channels: int,
        deep_supervision: bool = True,
        memory_format: str = "auto",
    ) -> None:
        super().__init__(topology, deep_supervision, memory_format)
        convolution, features, kernel = CONVOLUTION[topology.spatial_dims], topology.features, topology.kernel_sizes
        decoded = range(topology.levels - 2, -1, -1)  # coarsest first
        padding = tuple(size // 2 for size in kernel[0])
        self.stem = convolution(in_channels, features[0], kernel[0], padding=padding, bias=False)
        self.encoder = nn.ModuleList(
            _blocks(topology, level, count) for level, count in enumerate(topology.encoder_blocks)
        )
        self.down = nn.ModuleList(_down(topology, level) for level in reversed(decoded))
        self.up = nn.ModuleList(_up(topology, level) for level in decoded)
        self.decoder = nn.ModuleList(
            _blocks(topology, level, count) for level, count in zip(decoded, topology.decoder_convs, strict=True)
        )
        self.heads = nn.ModuleList(convolution(features[level], out_channels, 1) for level in decoded or (0,))
        self.freeze_unused_heads()


def _blocks(topology: NetworkTopology, level: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(PreActivationBlock(topology, level) for _ in range(count)))


def _down(topology: NetworkTopology, level: int) -> nn.Module:
    """The convolution from a level to the next coarser one."""
    kernel, stride = topology.kernel_sizes[level], topology.strides[level + 1]
    first, last = topology.features[level : level + 2]
    padding = tuple(size // 2 for size in kernel)
    return CONVOLUTION[topology.spatial_dims](first, last, kernel, stride=stride, padding=padding, bias=False)


def _up(topology: NetworkTopology, level: int) -> nn.Module:
    """The transposed convolution from the next coarser level to this one."""
    kernel, stride = topology.kernel_sizes[level], topology.strides[level + 1]
    last, first = topology.features[level : level + 2]
    return UPSAMPLING[topology.spatial_dims](
        first,
        last,
        kernel,
        stride=stride,
        padding=tuple(size // 2 for size in kernel),
        output_padding=tuple(step - 1 for step in stride),
        bias=False,
    )
