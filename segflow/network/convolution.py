"""Convolutions that take the quicker of two ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segflow.network.winograd import winograd_convolution, winograd_pays


class Convolution3d(nn.Conv3d):
    """``nn.Conv3d`` that on the CPU, in float32, computes 3x3x3 kernels by Winograd's scheme where that is quicker.

    Attributes:
        winograd: False always takes torch's convolution.
    """

    winograd = True

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, D, H, W) → (B, C', D / stride, …)."""
        if self.winograd and self._winograd_applies(x):
            return winograd_convolution(x, self.weight, self.bias)
        return super().forward(x)

    def _winograd_applies(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
            and x.is_contiguous(memory_format=torch.channels_last_3d)
            and self.stride == (1, 1, 1)
            and winograd_pays(x.shape, self.weight.shape)
        )
