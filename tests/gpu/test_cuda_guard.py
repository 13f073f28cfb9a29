"""With the guard, torch finds GPUs, tensors claim to be on a GPU, and autograd runs for them."""

from __future__ import annotations

import subprocess
import sys

import cuda_guard

CHECK = """
import cuda_guard
cuda_guard.load()
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
assert torch.cuda.is_available() and torch.cuda.device_count() == 2 and torch.cuda.current_device() == 0
assert torch.cuda.mem_get_info() < (24 * 2**30, 24 * 2**30 + 1) and torch.cuda.get_device_capability(1) == (8, 0)
torch.cuda.manual_seed_all(1)
with torch.cuda.device(1):
    assert torch.cuda.current_device() == 1
with FakeTensorMode():
    x = torch.zeros(3, device="cuda:1", requires_grad=True)
    with torch.autocast("cuda", torch.float16):
        y = torch.ones(3, 3, device="cuda:1") @ x
        assert y.dtype == torch.float16 and torch.amp.GradScaler("cuda").is_enabled()
        y.sum().backward()
    assert str(x.grad.device) == "cuda:1"
"""


def test_autograd_runs_for_tensors_of_a_gpu(guarded: dict[str, str]) -> None:
    guarded = {**guarded, cuda_guard.DEVICES: "2"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=cuda_guard.SOURCE.parent, env=guarded, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
