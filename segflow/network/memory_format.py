"""Channels-last memory, which makes convolutions faster on CPUs, and on GPUs in half precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Axes of a batch → torch's name of the format."""


LARGE_SAMPLE = 2**18
"""Voxels of a sample from which a forward pass on a GPU is quicker in channels-last memory, whatever the batch.

``python benchmarks/gpu.py --only passes`` measures it."""


def is_quicker_channels_last(image: Tensor) -> bool:
    """Whether a forward pass without gradients is quicker in channels-last memory, by what an H100 showed.

    cuDNN computes in that format. The norm then goes through the batch sample by sample, which
    costs more than it brings if the samples are small and many.

    Args:
        image: (B, C, *patch).
    """
    if image.device.type != "cuda" or torch.is_grad_enabled():
        return False
    return len(image) <= 2 or math.prod(image.shape[2:]) >= LARGE_SAMPLE


def runs_channels_last(x: Tensor) -> bool:
    """Whether x (B, C, *spatial) is in channels-last memory. For a single channel the strides decide."""
    return x.ndim in CHANNELS_LAST and x.stride(1) == 1 and x.is_contiguous(memory_format=CHANNELS_LAST[x.ndim])


def channels_last(image: Tensor) -> Tensor:
    """The image in channels-last memory.

    Args:
        image: (B, C, *spatial), two or three spatial axes.

    Returns:
        The same values and shape.
    """
    memory_format = CHANNELS_LAST[image.ndim]
    if image.shape[1] > 1:
        return image.contiguous(memory_format=memory_format)
    # A single channel fits both formats. Torch would keep strides that the first convolution takes for contiguous.
    return torch.empty_like(image, memory_format=memory_format).copy_(image)
