"""Settings of the process that a training or predicting CPU gains from."""

from __future__ import annotations

import ctypes
import logging

import torch

logger = logging.getLogger(__name__)

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


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
