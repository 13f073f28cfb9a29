"""What `pretended_cuda` gives, for the device that the environment variable `NAME` names, such as ``cuda``.

There, waits are told by torch's warnings, without operations that it does not know; and convolutions of backward passes
are not noted.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from device_record import Record
from torch.utils._python_dispatch import TorchDispatchMode

FORWARD = {"convolution", "conv2d", "conv3d"}
NAME = "SEGFLOW_TEST_DEVICE"
DEVICE = torch.device(os.environ[NAME])
if DEVICE.type == "cuda":
    DEVICE = torch.device("cuda", torch.cuda.current_device())
    torch.backends.cudnn.allow_tf32 = False  # what is compared was computed in float32


class _Convolutions(TorchDispatchMode):
    def __init__(self, noted: Record) -> None:
        super().__init__()
        self._noted = noted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in FORWARD and args[0].device.type == DEVICE.type:
            dtype = str(args[0].dtype).removeprefix("torch.")
            self._noted.convolutions[dtype, "any layout", str(args[0].device), "forward"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def record() -> Iterator[Record]:
    """Note what happens within, in this thread."""
    noted = Record()
    with warnings.catch_warnings(record=True) as told, _Convolutions(noted):
        warnings.simplefilter("always")
        if DEVICE.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield noted
        finally:
            if DEVICE.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    for warning in told:
        if "called a synchronizing" in str(warning.message):
            noted.waits[f"wait in {'/'.join(Path(warning.filename).parts[-2:])}:{warning.lineno}"] += 1


def on_gpu(real: torch.Tensor) -> torch.Tensor:
    """The same values on the device; later changes of one are not seen in the other."""
    return real.detach().clone().to(DEVICE)


def values(tensor: torch.Tensor) -> torch.Tensor:
    """The values in main memory; refuses a tensor that is not on the device."""
    assert tensor.device == DEVICE, f"not on the device: {tensor.device}"
    return tensor.detach().cpu()
