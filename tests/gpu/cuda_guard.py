"""What lets a torch without CUDA accept tensors of device ``cuda``: built once by the tests, loaded before torch.

Code of the process then believes that there are GPUs (as many as the environment variable `DEVICES` says; one where it
is not set). Their tensors have no memory and no kernels: who loads this also brings a `FakeTensorMode`, or computes on
the CPU (`pretended_cuda`). It holds until the process ends, so whoever uses it has a process of their own.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

LIBRARY = "SEGFLOW_CUDA_GUARD"
"""The environment variable that names the built library."""

DEVICES = "SEGFLOW_PRETENDED_GPUS"
"""The environment variable that says how many GPUs there are."""

MEMORY = 24 * 2**30
"""What each GPU has, in bytes; 4 GiB of it are taken."""

SOURCE = Path(__file__).with_name("guard.cpp")


class NoGuard(Exception):
    """Why the library cannot be built here."""


def build(folder: Path) -> Path:
    """The library, built within `folder`.

    Raises:
        NoGuard: There is no compiler, it does not build, or this torch has CUDA of its own.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise NoGuard("no C++ compiler (g++)")
    torch = Path(importlib.util.find_spec("torch").origin).parent
    if list((torch / "lib").glob("*torch_cuda*")):
        raise NoGuard("this torch has CUDA of its own; with a GPU, set SEGFLOW_TEST_DEVICE=cuda")
    library = folder / "libguard.so"
    command = [compiler, "-shared", "-fPIC", "-std=c++20", "-O0", str(SOURCE), "-o", str(library)]
    command += [f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"]
    command += [f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'},--no-as-needed", "-ltorch_cpu", "-lc10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise NoGuard(f"{SOURCE.name} does not build with this compiler and torch: {done.stderr[-1000:]}")
    return library


def load() -> None:
    """Load what `LIBRARY` names, and torch after it; torch must not have been imported."""
    assert "torch" not in sys.modules, "the guard must be loaded before torch"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = int(os.environ.get(DEVICES, "1"))
    if visible is not None:
        count = min(count, len([name for name in visible.split(",") if name.strip()]))
    os.environ[DEVICES] = str(count)
    ctypes.CDLL(os.environ[LIBRARY], mode=ctypes.RTLD_GLOBAL)
    _tell_torch(count)
    atexit.register(time.sleep, 0.5)  # a thread of autograd that still frees tensors of Python would abort the process


def _tell_torch(count: int) -> None:
    """Give `torch.cuda` the functions of CUDA's runtime on which it is built."""
    import torch

    core, cuda = torch._C, torch.cuda
    properties = SimpleNamespace(
        name="Pretended GPU", major=8, minor=0, total_memory=MEMORY, multi_processor_count=108, gcnArchName=""
    )
    core._cuda_getDeviceCount = lambda: count
    core._cuda_init = lambda: None
    core._cuda_getDevice = core._accelerator_getDeviceIndex
    core._cuda_setDevice = core._accelerator_setDeviceIndex
    core._cuda_exchangeDevice = cuda._exchange_device = core._accelerator_exchangeDevice
    core._cuda_maybeExchangeDevice = cuda._maybe_exchange_device = core._accelerator_maybeExchangeDevice
    core._cuda_synchronize = lambda: None
    core._cuda_emptyCache = lambda: None
    core._cuda_memoryStats = lambda device: {}
    core._cuda_resetPeakMemoryStats = lambda device: None
    core._cuda_clearCublasWorkspaces = lambda: None
    core._cuda_getArchFlags = lambda: None
    core._cuda_getCurrentRawStream = lambda index: 0
    cuda._get_device_properties = lambda device: properties
    cuda._cudart = SimpleNamespace(cudaMemGetInfo=lambda device: (MEMORY - 4 * 2**30, MEMORY))
    cuda.default_generators = tuple(torch.Generator() for _ in range(count))
