"""Memory of the device that a network runs on: how much is free, and which errors say that it did not suffice."""

from __future__ import annotations

import torch

_LACK = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",  # cuBLAS, cuDNN, cuFFT
    "ALLOCATION_FAILED",
    "unable to find an engine",  # cuDNN, if no kernel found room for its workspace
    "Unable to find a valid cuDNN algorithm",
)
"""What torch's errors say if memory is lacking. Only some have a class of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or numpy failed for lack of memory, of a device or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LACK)


def is_of_main_memory(error: BaseException) -> bool:
    """Whether it was the machine's memory that an error of `is_out_of_memory` is about, not a device's."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


def free_bytes(device: torch.device) -> int:
    """Bytes of a CUDA device that torch can still give to tensors.

    The driver counts all blocks that torch keeps as used, also those that hold no tensor any more.
    """
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def give_back(device: torch.device) -> None:
    """Return the blocks of a device that hold no tensor to the driver, so that other sizes find room."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
