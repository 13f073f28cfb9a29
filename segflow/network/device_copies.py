"""Copies from main memory that wait for no device."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values (of any shape) on the device.

    CUDA has read the values, or holds page-locked ones, when the call returns, so that the processors need not wait for
    what it computes. Other accelerators may read them later, when they are gone.
    """
    return values.to(device, non_blocking=device.type == "cuda")
