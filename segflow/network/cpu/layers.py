"""Faster versions of torch's layers for a CPU in float32.

Each class has exactly the parameters and attributes of the torch class that it replaces, so changing the class of an
object is enough (`segflow.network.cpu.accelerate`). For other types or devices, under autocast, compiled or traced,
a layer computes as torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from segflow.network.blocks import ConvBlock
from segflow.network.cpu.instance_norm import instance_norm
from segflow.network.cpu.winograd import winograd_convolution, winograd_pays
from segflow.network.memory_format import CHANNELS_LAST, channels_last, runs_channels_last
from segflow.network.norms import InstanceNorm2d, InstanceNorm3d
from segflow.network.unet import UNet

_SLOW_IN_TORCH = 20480
"""Product of channels, depth and height of a single volume up to which torch takes its slow convolution."""
_FEW_OUTPUTS = 128
"""Voxels of the result up to which that is still the faster one."""


def is_quick_with(*tensors: Tensor) -> bool:
    """Whether a layer may be fast with these tensors, any shape: float32 on the CPU, not traced, not compiled."""
    return (
        not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and all(
            type(tensor) in (Tensor, nn.Parameter)  # other classes have their own rules
            and tensor.device.type == "cpu"
            and tensor.dtype == torch.float32
            and tensor.numel() > 0
            for tensor in tensors
        )
    )


class _StaysChannelsLast(nn.Module):
    """Mixin for a torch layer that keeps channels-last memory. Torch often leaves it for a batch of one image.

    One layer that leaves it makes all later ones slower.
    """

    def forward(self, input: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """Input (B, C, *spatial) → (B, C', *other)."""
        y: Tensor = super().forward(input, *arguments, **options)
        if is_quick_with(input) and runs_channels_last(input):
            return y.contiguous(memory_format=CHANNELS_LAST[y.ndim])
        return y


class _QuickConvolution(_StaysChannelsLast, _ConvNd):
    """Mixin for torch's convolution that computes by Winograd's scheme, or by oneDNN, if that is faster."""

    def forward(self, input: Tensor) -> Tensor:
        """Input (B, C, *spatial) → (B, C', *spatial / stride)."""
        if (
            set(self.stride) == set(self.dilation) == {1}
            and self.padding in (tuple(n // 2 for n in self.kernel_size), "same")
            and self.padding_mode == "zeros"
            and self.groups == 1
            and winograd_pays(input.shape, self.weight.shape)
            and is_quick_with(input, self.weight)
            and runs_channels_last(input)
        ):
            return winograd_convolution(input, self.weight, self.bias)
        if self._needs_onednn(input):
            y: Tensor = torch.ops.aten.mkldnn_convolution(
                input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
            )
            return y.contiguous(memory_format=CHANNELS_LAST[y.ndim])
        return super().forward(input)

    def _needs_onednn(self, input: Tensor) -> bool:
        """Whether torch would leave a volume to its slow convolution, and oneDNN's is faster.

        Torch decides by the sizes of all axes but the last. For very few outputs, oneDNN spends more on arranging the
        weights than it saves.
        """
        if input.ndim != 5 or len(input) > 1 or isinstance(self.padding, str) or self.padding_mode != "zeros":
            return False
        outputs = math.prod(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                input.shape[2:], self.padding, self.dilation, self.kernel_size, self.stride, strict=True
            )
        )
        return (
            self.groups == 1
            and math.prod(input.shape[1:4]) <= _SLOW_IN_TORCH
            and outputs > _FEW_OUTPUTS
            and max(self.kernel_size) > 1
            and torch.backends.mkldnn.is_available()
            and bool(torch.backends.mkldnn.enabled)
            and is_quick_with(input, self.weight)
            and runs_channels_last(input)
        )


class QuickConv2d(_QuickConvolution, nn.Conv2d):
    """Convolution of images."""


class QuickConv3d(_QuickConvolution, nn.Conv3d):
    """Convolution of volumes."""


class QuickConvTranspose2d(_StaysChannelsLast, nn.ConvTranspose2d):
    """Transposed convolution of images."""


class QuickConvTranspose3d(_StaysChannelsLast, nn.ConvTranspose3d):
    """Transposed convolution of volumes."""


class QuickAvgPool2d(_StaysChannelsLast, nn.AvgPool2d):
    """Mean over neighbours in images."""


class QuickAvgPool3d(_StaysChannelsLast, nn.AvgPool3d):
    """Mean over neighbours in volumes."""


class _Pointwise(_ConvNd):
    """Mixin that computes a 1x1 convolution with stride 1 and one group as a matrix product.

    For few outputs, torch's own leaves its fast path and the memory format.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Input (B, C, *spatial) → (B, C', *spatial)."""
        if not (is_quick_with(input, self.weight) and runs_channels_last(input)):
            y: Tensor = super().forward(input)
            return y
        return functional.linear(input.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class PointwiseConv2d(_Pointwise, nn.Conv2d):
    """1x1 convolution of images."""


class PointwiseConv3d(_Pointwise, nn.Conv3d):
    """1x1x1 convolution of volumes."""


class _QuickInstanceNorm(_InstanceNorm):
    """Mixin for torch's instance norm that computes block by block, in the memory format of the input."""

    def forward(self, input: Tensor) -> Tensor:
        """Input (B, C, *spatial) → the same shape."""
        return self.activated(input, 1.0)

    def activated(self, x: Tensor, negative_slope: float) -> Tensor:
        """`forward`, then a leaky ReLU with this positive slope; 1 means none."""
        if self.weight is not None and self.bias is not None and self._is_quick_with(x, self.weight):
            return instance_norm(x, self.weight, self.bias, self.eps, negative_slope)
        x = super().forward(x)
        return x if negative_slope == 1 else functional.leaky_relu(x, negative_slope, inplace=True)

    def _is_quick_with(self, x: Tensor, weight: Tensor) -> bool:
        batched = x.ndim == self._get_no_batch_dim() + 1  # type: ignore[no-untyped-call]
        return batched and not self.track_running_stats and x.shape[1] == self.num_features and is_quick_with(x, weight)


class QuickInstanceNorm2d(_QuickInstanceNorm, nn.InstanceNorm2d):
    """Instance norm of images."""


class QuickInstanceNorm3d(_QuickInstanceNorm, nn.InstanceNorm3d):
    """Instance norm of volumes."""


class QuickUnviewedInstanceNorm2d(_QuickInstanceNorm, InstanceNorm2d):
    """Instance norm of images in a network of ours."""


class QuickUnviewedInstanceNorm3d(_QuickInstanceNorm, InstanceNorm3d):
    """Instance norm of volumes in a network of ours."""


class _FusesActivations(nn.Sequential):
    """Mixin for ``nn.Sequential`` that computes an instance norm and the leaky ReLU after it as one operation."""

    def forward(self, input: Any) -> Any:
        """The result of ``nn.Sequential``."""
        x = input
        layers: Iterator[tuple[Any, Any]] = iter(zip_longest(tuple(self), tuple(self)[1:]))
        for layer, following in layers:
            if _can_be_fused(layer, following):
                x = layer.activated(x, following.negative_slope)
                next(layers)
            else:
                x = layer(x)
        return x


def _can_be_fused(norm: nn.Module, activation: nn.Module | None) -> bool:
    """Whether fusing has no visible effect: no hook is called between, and the norm's output is not used elsewhere."""
    return (
        isinstance(norm, _QuickInstanceNorm)
        and type(activation) is nn.LeakyReLU
        and activation.inplace
        and activation.negative_slope > 0
        and not torch_module._has_any_global_hook()
        and not any(_has_hooks(layer) for layer in (norm, activation))
    )


def _has_hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


class QuickSequential(_FusesActivations, nn.Sequential):
    """A sequence of layers."""


class QuickConvBlock(_FusesActivations, ConvBlock):
    """Convolution, normalisation, leaky ReLU."""


class ChannelsLastUNet(UNet):
    """A U-Net that runs in channels-last memory, unless ``memory_format`` says otherwise."""

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, *patch) → logits (B, K, *patch of the level), finest first."""
        if self.memory_format == "auto" and image.ndim == 2 + self.topology.spatial_dims and is_quick_with(image):
            image = channels_last(image)
        return super().forward(image)
