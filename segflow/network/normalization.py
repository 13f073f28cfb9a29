"""Instance normalisation and the leaky ReLU after it, as one operation that stays in channels-last memory.

Torch's own instance norm copies a channels-last tensor to contiguous memory and back. The batch and group norms that
do not are no way out: they sum up 90,000 voxels one by one in float32, which leaves four digits, or take ten times as
long backwards. On the CPU this file therefore composes both passes of elementwise operations and torch's own sums, a
few samples at a time, so that each finds its input in the cache. Elsewhere torch's operations are used as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_aten = torch.ops.aten
_CACHED_ELEMENTS = 2**18
"""1 MB in float32, the second-level cache of common processors."""


class InstanceNorm(nn.Module):
    """Instance norm with learnt scale and shift and no running statistics (recipe 8.1).

    Args:
        features: Channels of the input.
        eps: Added to the variance.
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, negative_slope: float = 1.0) -> Tensor:
        """Normalise x (B, C, *spatial); a slope below 1 also applies the leaky ReLU."""
        return instance_norm(x, self.weight, self.bias, self.eps, negative_slope)

    def extra_repr(self) -> str:
        """Shown by ``print(network)``."""
        return f"{self.weight.numel()}, eps={self.eps}"


def instance_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, negative_slope: float = 1.0) -> Tensor:
    """Instance norm, then a leaky ReLU unless its slope is 1.

    Args:
        x: (B, C, *spatial), in any memory format, which the result keeps.
        weight: (C,) scale.
        bias: (C,) shift.
        eps: Added to the variance.
        negative_slope: Of the leaky ReLU, in (0, 1].
    """
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
        result: Tensor = _InstanceNormLeakyReLU.apply(x, weight, bias, eps, negative_slope)
        return result
    x = functional.instance_norm(x, weight=weight, bias=bias, eps=eps)
    return x if negative_slope == 1 else functional.leaky_relu(x, negative_slope, inplace=True)


class _InstanceNormLeakyReLU(torch.autograd.Function):
    """The CPU path. Keeps the input and, for the sign of the activation, the output, which the next layer keeps too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, negative_slope: float) -> Tensor:
        y = torch.empty_like(x)
        axes = tuple(range(2, x.ndim))
        voxels = x[0, 0].numel()
        scale, shift = _per_channel(weight, x.ndim), _per_channel(bias, x.ndim)
        means, inverse_stds = [], []
        for x_part, y_part in zip(_parts(x), _parts(y), strict=True):
            x_part, out = x_part.to(scale.dtype), _writable(y_part, scale.dtype)
            mean = x_part.sum(axes, keepdim=True) / voxels
            centred = torch.sub(x_part, mean, out=out)
            inverse_std = ((centred * centred).sum(axes, keepdim=True) / voxels).add_(eps).rsqrt_()
            torch.addcmul(shift, centred, scale * inverse_std, out=out)
            if negative_slope != 1:
                functional.leaky_relu_(out, negative_slope)
            if out is not y_part:
                y_part.copy_(out)
            means.append(mean)
            inverse_stds.append(inverse_std)
        output = y if negative_slope != 1 else None
        ctx.save_for_backward(x, output, weight, torch.cat(means), torch.cat(inverse_stds))
        ctx.negative_slope = negative_slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, mean, inverse_std = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        axes = tuple(range(2, x.ndim))
        voxels = x[0, 0].numel()
        scale = _per_channel(weight, x.ndim)
        grad_bias, grad_weight = torch.zeros_like(scale), torch.zeros_like(scale)
        whole = (x, x if y is None else y, grad_y, grad_x, mean, inverse_std)
        for x_part, y_part, grad, grad_x_part, m, r in zip(*map(_parts_like(x), whole), strict=True):
            if y is not None:  # y is positive exactly where the normalised value is, since the slope is
                grad = _aten.leaky_relu_backward(grad, y_part, ctx.negative_slope, True)
            grad, x_part, out = grad.to(scale.dtype), x_part.to(scale.dtype), _writable(grad_x_part, scale.dtype)
            grad_sum = grad.sum(axes, keepdim=True)
            product_sum = ((grad * x_part).sum(axes, keepdim=True) - m * grad_sum) * r
            # With n = (x - m) r: grad_x = scale r (grad - mean(grad) - n mean(grad n)), sorted by grad, x and the rest.
            by_grad = scale * r
            by_x = by_grad * r * product_sum / -voxels
            rest = by_grad * grad_sum / -voxels - by_x * m
            torch.addcmul(rest, grad, by_grad, out=out).addcmul_(x_part, by_x)
            if out is not grad_x_part:
                grad_x_part.copy_(out)
            grad_bias += grad_sum.sum(0, keepdim=True)
            grad_weight += product_sum.sum(0, keepdim=True)
        return grad_x, grad_weight.view_as(weight), grad_bias.view_as(weight), None, None


def _writable(part: Tensor, dtype: torch.dtype) -> Tensor:
    """The part itself, or memory of this type to compute it in: torch mixes types at a tenth of the speed."""
    return part if part.dtype == dtype else torch.empty_like(part, dtype=dtype)


def _per_channel(values: Tensor, dims: int) -> Tensor:
    return values.view(1, -1, *(1,) * (dims - 2))


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    """Groups of samples small enough that the passes over one find it in the cache; at least one sample each."""
    return _parts_like(x)(x)


def _parts_like(x: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    samples = max(_CACHED_ELEMENTS // x[0].numel(), 1)
    return lambda tensor: tensor.split(samples)
