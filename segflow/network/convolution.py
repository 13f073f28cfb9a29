"""Layers that are torch's, computed in a quicker way where they run on the CPU in channels-last memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from segflow.network.winograd import winograd_convolution, winograd_pays


class _StaysChannelsLast:
    """Keeps to channels-last memory where torch leaves it, as it often does for a batch of one image.

    To be mixed into one of torch's convolutions.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *spatial) → (B, C', *spatial / stride)."""
        y: Tensor = super().forward(x)  # type: ignore[misc]
        return in_format_of(x, y)


class Convolution2d(_StaysChannelsLast, nn.Conv2d):
    """Convolution of images."""


class Upsampling2d(_StaysChannelsLast, nn.ConvTranspose2d):
    """Transposed convolution of images."""


class Upsampling3d(_StaysChannelsLast, nn.ConvTranspose3d):
    """Transposed convolution of volumes."""


class Convolution3d(_StaysChannelsLast, nn.Conv3d):
    """``nn.Conv3d`` that in float32 computes 3x3x3 kernels by Winograd's scheme where that is quicker.

    Attributes:
        winograd: False always takes torch's convolution.
    """

    winograd = True

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) → (B, C', D / stride, …)."""
        if (
            self.winograd
            and x.dtype == self.weight.dtype == torch.float32
            and self.stride == (1, 1, 1)
            and winograd_pays(x.shape, self.weight.shape)
            and _runs_channels_last(x)
            and not torch.is_autocast_enabled("cpu")
        ):
            return winograd_convolution(x, self.weight, self.bias)
        return super().forward(x)


class _Pointwise:
    """A 1x1 convolution as a matrix product; torch's own leaves its quick path, and the memory format, for few outputs.

    To be mixed into one of torch's convolutions.
    """

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *spatial) → (B, C', *spatial)."""
        if not _runs_channels_last(x):
            return super().forward(x)  # type: ignore[misc,no-any-return]
        return functional.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class Pointwise2d(_Pointwise, nn.Conv2d):
    """1x1 convolution of images."""


class Pointwise3d(_Pointwise, nn.Conv3d):
    """1x1x1 convolution of volumes."""


def channels_last(image: Tensor) -> Tensor:
    """image (B, C, *spatial), in channels-last memory."""
    memory_format = _channels_last_of(image)
    if image.shape[1] > 1:
        return image.contiguous(memory_format=memory_format)
    # One channel fits both formats, and torch would leave strides that the first convolution takes for contiguous.
    return torch.empty_like(image, memory_format=memory_format).copy_(image)


def in_format_of(x: Tensor, y: Tensor) -> Tensor:
    """y (B, C', *spatial), in channels-last memory where the network runs in it, as the x that y was made from does.

    One layer that leaves it makes every later one slower.
    """
    return y.contiguous(memory_format=_channels_last_of(x)) if _runs_channels_last(x) else y


def _runs_channels_last(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.is_contiguous(memory_format=_channels_last_of(x))
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _channels_last_of(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d
