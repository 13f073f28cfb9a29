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
    """The CPU path.

    The backward pass needs the normalised values n. It takes them from the output, which the next layer keeps anyway,
    by undoing the activation and the learnt shift and scale, so that the input need not be kept: half the memory of
    a training step. Where that would lose digits, or without an activation, the input is kept and n taken from it.
    """

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
        kept = (
            x if negative_slope == 1 or not _invertible(y, weight, bias) else None,
            y if negative_slope != 1 else None,
        )
        ctx.save_for_backward(*kept, weight, bias, torch.cat(means), torch.cat(inverse_stds))
        ctx.negative_slope = negative_slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, mean, inverse_std = ctx.saved_tensors
        source = y if x is None else x
        grad_x = torch.empty_like(source)
        axes = tuple(range(2, source.ndim))
        voxels = source[0, 0].numel()
        scale, shift = _per_channel(weight, source.ndim), _per_channel(bias, source.ndim)
        grad_bias, grad_weight = torch.zeros_like(scale), torch.zeros_like(scale)
        whole = (source, source if y is None else y, grad_y, grad_x, mean, inverse_std)
        for values, y_part, grad, grad_x_part, mean_part, r in zip(*map(_parts_like(source), whole), strict=True):
            if y is not None:  # y is positive exactly where the normalised value is, since the slope is
                grad = _aten.leaky_relu_backward(grad, y_part, ctx.negative_slope, True)
            grad, out = grad.to(scale.dtype), _writable(grad_x_part, scale.dtype)
            # n = (values - centre) times factor
            if x is None:
                values, centre, factor = functional.leaky_relu(values, 1 / ctx.negative_slope), shift, 1 / scale
            else:
                values, centre, factor = values.to(scale.dtype), mean_part, r
            grad_sum = grad.sum(axes, keepdim=True)
            product_sum = ((grad * values).sum(axes, keepdim=True) - centre * grad_sum) * factor
            # grad_x = scale r (grad - mean(grad) - n mean(grad n)), sorted by grad, values and the rest.
            by_grad = scale * r
            by_values = by_grad * factor * product_sum / -voxels
            rest = by_grad * grad_sum / -voxels - by_values * centre
            torch.addcmul(rest, grad, by_grad, out=out).addcmul_(values, by_values)
            if out is not grad_x_part:
                grad_x_part.copy_(out)
            grad_bias += grad_sum.sum(0, keepdim=True)
            grad_weight += product_sum.sum(0, keepdim=True)
        return grad_x, grad_weight.view_as(weight), grad_bias.view_as(weight), None, None


def _invertible(y: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether the normalised values can be had from the output within about 1e-5, for every channel."""
    return y.dtype == weight.dtype and bool((weight.abs() > bias.abs() * 0.01 + 1e-6).all())


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
