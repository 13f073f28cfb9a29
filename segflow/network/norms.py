"""Torch's instance norm with a result that the activation after it can change in place at no cost.

Torch's result is a view. If a view is changed in place, autograd copies the gradient of what is viewed
(``CopySlices``), which is a quarter of the memory traffic of a training step on a GPU and a tenth of its peak memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.instancenorm import _InstanceNorm

from segflow.network.memory_format import runs_channels_last


class _ReturnsNoView(_InstanceNorm):
    """Mixin for torch's instance norm. Values and gradients are equal to the bit, and the result is not a view.

    On an accelerator it keeps channels-last memory, which torch's leaves. Compiled, traced or exported it is torch's.
    """

    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if (
            weight is None
            or bias is None
            or self.track_running_stats
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
        ):
            result: Tensor = super()._apply_instance_norm(input)  # type: ignore[no-untyped-call]
            return result
        if input.device.type != "cpu" and runs_channels_last(input):
            # The samples' channels are not neighbours in memory, so that each sample is a batch of its own.
            samples = [_norm_of_batch(one, weight, bias, self.eps) for one in input.split(1)]
            return samples[0] if len(samples) == 1 else torch.cat(samples)
        batch, channels = input.shape[:2]
        one_sample = input.contiguous().view(1, batch * channels, *input.shape[2:])
        normed = _norm_of_batch(one_sample, weight.repeat(batch), bias.repeat(batch), self.eps)
        # Autograd does not take the result for a view; nothing else uses what it would be a view of.
        unviewed: Tensor = torch.ops.aten._unsafe_view(normed, input.shape)
        return unviewed


class InstanceNorm2d(_ReturnsNoView, nn.InstanceNorm2d):
    """Instance norm of images."""


class InstanceNorm3d(_ReturnsNoView, nn.InstanceNorm3d):
    """Instance norm of volumes."""


def _norm_of_batch(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return functional.batch_norm(x, None, None, weight, bias, training=True, momentum=0.0, eps=eps)
