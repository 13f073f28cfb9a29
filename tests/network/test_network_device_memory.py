"""Which errors say that memory is lacking, and how much of a device is free."""

from __future__ import annotations

import pytest
import torch

from segflow.core.errors import SegflowError
from segflow.network.device_memory import free_bytes, is_of_main_memory, is_out_of_memory

OF_A_DEVICE = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
)
OTHERS = (
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: device-side assert triggered"),
    SegflowError("memory does not suffice", found="out of memory"),
    OSError("out of memory"),
)


@pytest.mark.parametrize("error", OF_A_DEVICE, ids=str)
def test_errors_of_a_device_that_is_full(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_of_main_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_others(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_errors_of_main_memory() -> None:
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**60)
    with pytest.raises(MemoryError) as pythons:
        bytearray(2**60)
    for error in (torchs.value, pythons.value):
        assert is_out_of_memory(error)
        assert is_of_main_memory(error)


def test_blocks_that_torch_keeps_without_need_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"mem_get_info": (2, 24), "memory_reserved": 20, "memory_allocated": 5}
    for name, number in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, number=number: number)
    assert free_bytes(torch.device("cuda")) == 17
