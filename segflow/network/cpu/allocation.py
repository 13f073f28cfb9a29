"""Settings of the process that a training or predicting CPU gains from."""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4

_ALIGNMENT = 64
"""Bytes; a cache line, as torch's own tensors have."""


def tune_cpu() -> None:
    """Keep freed memory for the next step, and treat denormal numbers as zero.

    glibc gives every large tensor fresh pages from the kernel and returns them when it is freed; each step then pays
    for a page fault per 4 kB, which takes several times as long as an elementwise operation on the tensor. Denormal
    numbers, which small gradients become, are calculated with at a fraction of the speed. Both settings hold for the
    process and its later threads and children, so that it is for the doors that run networks to call this, once and
    before the first tensor. On other systems than glibc the memory stays as it is.
    """
    torch.set_flush_denormal(True)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        logger.debug("no mallopt in this C library: freed memory goes back to the system")
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)


def empty(
    shape: Sequence[int], dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """As ``torch.empty`` on the CPU, but of memory that fits where a tensor of the same size was before.

    Torch asks for aligned memory. For this glibc, up to 2.37, looks for a hole that is 96 bytes larger than needed and
    gives the rest away to small objects, so that the next tensor of the same size no longer fits in: with every step
    the network's memory falls further to pieces. Here the room for alignment is asked for as well, and kept.

    Args:
        shape: Of the tensor.
        dtype: Of the tensor.
        memory_format: Of the tensor.
    """
    strides = torch.empty(tuple(shape), device="meta", memory_format=memory_format).stride()
    return _strided(shape, strides, dtype)


def empty_like(x: Tensor) -> Tensor:
    """As ``torch.empty_like`` on the CPU: a dense tensor keeps its memory format; see `empty`."""
    dense = x.permute(sorted(range(x.ndim), key=x.stride, reverse=True))
    return _strided(x.shape, x.stride(), x.dtype) if dense.is_contiguous() else torch.empty_like(x)


def _strided(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A dense tensor; no view of another one, since an output that is may not be changed in place."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    storage = torch.from_numpy(memory).untyped_storage()
    return torch.empty(0, dtype=dtype).set_(storage, start // dtype.itemsize, tuple(shape), tuple(strides))
