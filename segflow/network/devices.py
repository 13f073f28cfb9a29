"""Devices that networks compute on: which ones there are, what they are called, and whether they can be used."""

from __future__ import annotations

import os

import torch

from segflow.core.errors import SegflowError
from segflow.network.device_memory import is_out_of_memory

KINDS = ("cuda", "mps", "cpu")
"""Kinds of devices in the order in which ``auto`` takes them."""


def device_count(kind: str) -> int:
    """Devices of a kind that this process sees; ``CUDA_VISIBLE_DEVICES`` hides others. The CPU counts as one."""
    if kind == "cuda":
        return torch.cuda.device_count()
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return int(kind == "cpu")


def best_kind() -> str:
    """The first of `KINDS` that there is."""
    return next(kind for kind in KINDS if device_count(kind))


def device_name(device: torch.device) -> str:
    """``cuda:1 (NVIDIA A100-SXM4-80GB)``, ``mps`` or ``cpu``."""
    if device.type != "cuda":
        return str(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    return f"cuda:{index} ({torch.cuda.get_device_name(index)})"


def list_devices() -> str:
    """The GPUs of this process by name, or why there is none."""
    count = device_count("cuda")
    try:
        names = [device_name(torch.device("cuda", index)) for index in range(count)]
    except (RuntimeError, AssertionError):  # a driver that does not work
        names = [f"cuda:{index}" for index in range(count)]
    names += ["mps"] * device_count("mps")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f", with CUDA_VISIBLE_DEVICES={visible!r}"
    if names:
        return f"{'1 GPU' if len(names) == 1 else f'{len(names)} GPUs'}: {', '.join(names)}{hidden}"
    if torch.version.cuda is None and torch.version.hip is None:
        return f"no GPU, since torch {torch.__version__} is built without CUDA"
    return f"no GPU that torch {torch.__version__} can use{hidden}"


def choose_device(name: str = "auto") -> torch.device:
    """The device of this name.

    Args:
        name: ``auto`` for CUDA if there is a device, else MPS, else the CPU; or ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        SegflowError: There is no such device, or it cannot be used now.
    """
    try:
        device = torch.device(best_kind() if name == "auto" else name)
    except RuntimeError:
        raise _not_there(name) from None
    if device.type in KINDS and (device.index or 0) >= device_count(device.type):
        raise _not_there(name)
    check_device(device, f"inference.device={another_device(device) or 'cpu'}")
    return device


def another_device(device: torch.device) -> torch.device | None:
    """Another device of the same kind; None if there is none."""
    index = device.index or 0
    return next((torch.device(device.type, k) for k in range(device_count(device.type)) if k != index), None)


def check_device(device: torch.device, instead: str) -> None:
    """Refuse a device that is there and cannot be used, such as one that another process has for itself.

    Args:
        device: The device.
        instead: Settings that take another one, as they are typed.

    Raises:
        SegflowError: It cannot hold a number.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's errors of a device are RuntimeErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = f"Wait until it is free (nvidia-smi shows who has it), or type {instead}."
        raise SegflowError(f"device '{device}' cannot be used now", found=reason, fix=fix) from error


class DeviceLostError(SegflowError):
    """A device failed in the middle, and this process can compute nothing more on it."""


def lost_device(error: BaseException, what: str) -> DeviceLostError | None:
    """The error to tell if torch failed because a device did; None if that is not why.

    Args:
        error: What torch raised.
        what: The work that it ended, such as ``the training``.
    """
    first, *_ = str(error).splitlines() or [""]
    of_device = isinstance(error, RuntimeError) and first.startswith(("CUDA error", "HIP error"))
    if not of_device or is_out_of_memory(error):
        return None
    return DeviceLostError(
        f"a GPU failed and ended {what}",
        found=first,
        fix="The same command goes on from what is done. If it fails again, nvidia-smi or the system's log say more "
        "about the GPU; CUDA_LAUNCH_BLOCKING=1 and HYDRA_FULL_ERROR=1 show the operation.",
    )


def _not_there(name: str) -> SegflowError:
    several = device_count("cuda") > 1
    there = {"cuda": "cuda | cuda:1" if several else "cuda", "mps": "mps", "cpu": "cpu"}
    return SegflowError(
        f"there is no device '{name}'",
        found=list_devices(),
        expected=" | ".join(["auto", *(words for kind, words in there.items() if device_count(kind))]),
        fix="Type inference.device=auto.",
    )
