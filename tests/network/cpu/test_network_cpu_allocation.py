"""Tuning the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from segflow.network.cpu.allocation import empty, empty_like

SCRIPT = """
import resource, threading, torch
from segflow.network.cpu.allocation import tune_cpu

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(16_000_000).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
tune_cpu()
faults()
here, threads = faults(), []
for _ in range(8):
    thread = threading.Thread(target=lambda: threads.append(faults()))
    thread.start()
    thread.join()
print(plain, here + min(threads[1:]), float(torch.tensor(1e-40) * 0.5))
"""
"""A thread's own small objects may take the place of a large tensor, see `empty`. Not those of every thread do."""


def test_memory_is_kept_and_denormals_are_zero() -> None:
    if sys.platform != "linux":
        return
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, tuned, denormal = (float(value) for value in done.stdout.split())
    assert tuned < plain / 10
    assert denormal == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_empty_tensors_are_dense_and_aligned(dtype: torch.dtype) -> None:
    for shape in ((3,), (2, 3, 5), (1, 7, 2, 4, 3), (0, 3)):
        found = empty(shape, dtype)
        assert (tuple(found.shape), found.dtype) == (shape, dtype)
        assert found.is_contiguous()
        assert found.data_ptr() % 64 == 0
        found.fill_(2)
        assert found.float().sum() == 2 * found.numel()


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 3, 4, 5, 6),
        torch.zeros(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d),
        torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.zeros(2, 1, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.zeros(4, 3).T,
        torch.zeros(4, 6)[:, ::2],
        torch.zeros(4, 1).expand(4, 3),
        torch.zeros(()),
    ],
)
def test_empty_like_has_shape_and_memory_format_of_the_tensor(x: torch.Tensor) -> None:
    found, expected = empty_like(x), torch.empty_like(x)
    assert (found.shape, found.dtype, found.stride()) == (expected.shape, expected.dtype, expected.stride())
    found.fill_(3)
    assert found.sum() == 3 * x.numel()
