"""MedNeXt: a U-Net of ConvNeXt blocks (Roy et al. 2023, arXiv 2303.09975)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from segflow.core.topology import NetworkTopology
from segflow.network.adding_network import AddingNetwork
from segflow.network.blocks import CONVOLUTION, INSTANCE_NORM, UPSAMPLING


class MedNeXtBlock(nn.Module):
    """Depthwise convolution, norm, pointwise convolution to more features, GELU, pointwise convolution back.

    The published group norm with a group for each feature is an instance norm.

    Args:
        topology: Gives dimensions, and at ``level`` kernel and expansion.
        level: Its kernel and expansion are used.
        in_channels, out_channels: Numbers of feature maps.
    """

    def __init__(self, topology: NetworkTopology, level: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        dims, wide = topology.spatial_dims, topology.options["expansion"][level] * in_channels
        self.recompute = bool(topology.options["recompute"])
        self.depthwise = self._depthwise(topology, level, in_channels)
        self.norm = INSTANCE_NORM[dims](in_channels, affine=True)
        self.expand = CONVOLUTION[dims](in_channels, wide, 1)
        self.activation = nn.GELU()
        self.compress = CONVOLUTION[dims](wide, out_channels, 1)

    def _depthwise(self, topology: NetworkTopology, level: int, channels: int) -> nn.Module:
        kernel = topology.kernel_sizes[level]
        return CONVOLUTION[topology.spatial_dims](channels, channels, kernel, padding=_half(kernel), groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, *spatial) → (B, out_channels, *spatial of the result)."""
        if self.recompute and torch.is_grad_enabled() and x.requires_grad:
            again: Tensor = checkpoint(self._result, x, use_reentrant=False, preserve_rng_state=False)
            return again
        return self._result(x)

    def _changed(self, x: Tensor) -> Tensor:
        """What is added to the shortcut."""
        result: Tensor = self.compress(self.activation(self.expand(self.norm(self.depthwise(x)))))
        return result

    def _result(self, x: Tensor) -> Tensor:
        return x + self._changed(x)


class DownBlock(MedNeXtBlock):
    """A block that leads from a level to the next coarser one.

    Args:
        topology: See `MedNeXtBlock`.
        level: The finer level.
    """

    def __init__(self, topology: NetworkTopology, level: int) -> None:
        first, last = topology.features[level : level + 2]
        super().__init__(topology, level, first, last)
        stride = topology.strides[level + 1]
        self.shortcut = CONVOLUTION[topology.spatial_dims](first, last, 1, stride=stride)

    def _depthwise(self, topology: NetworkTopology, level: int, channels: int) -> nn.Module:
        kernel, stride = topology.kernel_sizes[level], topology.strides[level + 1]
        return CONVOLUTION[topology.spatial_dims](
            channels, channels, kernel, stride=stride, padding=_half(kernel), groups=channels
        )

    def _result(self, x: Tensor) -> Tensor:
        result: Tensor = self._changed(x) + self.shortcut(x)
        return result


class UpBlock(MedNeXtBlock):
    """A block that leads from a level to the next finer one.

    Args:
        topology: See `MedNeXtBlock`.
        level: The finer level.
    """

    def __init__(self, topology: NetworkTopology, level: int) -> None:
        last, first = topology.features[level : level + 2]
        super().__init__(topology, level, first, last)
        stride = topology.strides[level + 1]
        self.shortcut = UPSAMPLING[topology.spatial_dims](first, last, 1, stride=stride)
        # A transposed convolution with this padding gives stride - 1 voxels too few. They are added in front.
        self.missing = [n for s in reversed(stride) for n in (s - 1, 0)]

    def _depthwise(self, topology: NetworkTopology, level: int, channels: int) -> nn.Module:
        kernel, stride = topology.kernel_sizes[level], topology.strides[level + 1]
        return UPSAMPLING[topology.spatial_dims](
            channels, channels, kernel, stride=stride, padding=_half(kernel), groups=channels
        )

    def _result(self, x: Tensor) -> Tensor:
        return functional.pad(self._changed(x) + self.shortcut(x), self.missing)


class MedNeXt(AddingNetwork):
    """MedNeXt with the plan's strides and kernels.

    Published, it has strides of 2 and equal kernels along all axes. Here an axis is halved where the plan says so, and
    has a kernel of 1 while it is coarse.

    Args:
        topology: Levels, features, kernels, strides, blocks, and the options of `MedNeXtKind`.
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
        convolution, features = CONVOLUTION[topology.spatial_dims], topology.features
        decoded = range(topology.levels - 2, -1, -1)  # coarsest first
        self.stem = convolution(in_channels, features[0], 1)
        self.encoder = nn.ModuleList(
            _blocks(topology, level, count) for level, count in enumerate(topology.encoder_blocks)
        )
        self.down = nn.ModuleList(DownBlock(topology, level) for level in reversed(decoded))
        self.up = nn.ModuleList(UpBlock(topology, level) for level in decoded)
        self.decoder = nn.ModuleList(
            _blocks(topology, level, count) for level, count in zip(decoded, topology.decoder_convs, strict=True)
        )
        self.heads = nn.ModuleList(convolution(features[level], out_channels, 1) for level in decoded or (0,))
        self.freeze_unused_heads()

    @property
    def widest(self) -> int:
        """Features of the widest tensor at the finest level: within the block that leads up to it, or beside it."""
        features = self.topology.features[:2]
        return int(self.topology.options["expansion"][0]) * features[-1]


def _blocks(topology: NetworkTopology, level: int, count: int) -> nn.Sequential:
    width = topology.features[level]
    return nn.Sequential(*(MedNeXtBlock(topology, level, width, width) for _ in range(count)))


def _half(kernel: Sequence[int]) -> tuple[int, ...]:
    return tuple(size // 2 for size in kernel)
