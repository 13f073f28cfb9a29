"""Settings of the process that speed up training and prediction on a CPU."""

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
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

_ALIGNMENT = 64
"""Alignment in bytes: a cache line, as for torch's own tensors."""


def tune_cpu() -> None:
    """Keep freed memory for the next step, and treat denormal numbers as zero.

    glibc gives every large tensor new pages from the kernel and returns them when it is freed. Each step then pays for
    a page fault per 4 kB, which takes several times as long as an elementwise operation on the tensor. Small gradients
    become denormal numbers, with which a CPU computes at a fraction of its speed. Each thread's memory would come from
    an arena of its own, which is too small for large tensors, so all take it from one. The settings hold for the
    process and its later threads and children. Functions that run networks call this once, before the first tensor.
    Without glibc, memory is left as it is.
    """
    torch.set_flush_denormal(True)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        logger.debug("no mallopt in this C library: freed memory goes back to the system")
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_TRIM_THRESHOLD, -1)


def empty(
    shape: Sequence[int], dtype: torch.dtype, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Like ``torch.empty`` on the CPU, but with memory that can be reused for a tensor of the same size.

    Torch asks for aligned memory. For that, glibc up to 2.37 looks for a hole that is 96 bytes larger than needed, and
    gives the rest to small objects. The next tensor of the same size then no longer fits, and memory becomes more
    fragmented with every step. Here the extra bytes for alignment are requested too, and kept.

    Args:
        shape: Shape of the tensor, any shape.
        dtype: Type of the tensor.
        memory_format: Memory format of the tensor.
    """
    strides = torch.empty(tuple(shape), device="meta", memory_format=memory_format).stride()
    return _strided(shape, strides, dtype)


def empty_like(x: Tensor) -> Tensor:
    """Like ``torch.empty_like`` on the CPU. A dense tensor of any shape keeps its memory format. See `empty`."""
    dense = x.permute(sorted(range(x.ndim), key=x.stride, reverse=True))
    return _strided(x.shape, x.stride(), x.dtype) if dense.is_contiguous() else torch.empty_like(x)


def _strided(shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A dense tensor. It is not a view, since an output that is a view must not be changed in place."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    storage = torch.from_numpy(memory).untyped_storage()
    return torch.empty(0, dtype=dtype).set_(storage, start // dtype.itemsize, tuple(shape), tuple(strides))
