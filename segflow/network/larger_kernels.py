"""Weights of a network with small depthwise kernels for one with larger ones (UpKern, arXiv 2303.09975)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def is_larger_kernel(shape: Sequence[int], given: Sequence[int]) -> bool:
    """Whether both are weights of a depthwise convolution of as many channels, and the first has the larger kernel.

    Args:
        shape: (C, 1, *kernel) of the new weights.
        given: (C, 1, *kernel) of those that exist.
    """
    if len(shape) != len(given) or len(shape) not in (4, 5) or tuple(shape[:2]) != tuple(given[:2]):
        return False
    return shape[0] > 1 and shape[1] == 1 and all(n >= m for n, m in zip(shape[2:], given[2:], strict=True))


def enlarged_kernel(weight: Tensor, kernel: Sequence[int]) -> Tensor:
    """Kernels of another size by linear interpolation along each axis.

    Args:
        weight: (C, 1, *kernel).
        kernel: Their new size, one entry per spatial axis.

    Returns:
        (C, 1, *kernel).
    """
    return functional.interpolate(weight, size=tuple(kernel), mode=_MODES[len(kernel)], align_corners=False)
