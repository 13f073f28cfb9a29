"""Precision in which networks compute, and cuDNN's choices, which are made here and not left to torch's defaults."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from segflow.core.errors import SegflowError
from segflow.network.devices import device_name

FLOAT16, BFLOAT16, FLOAT32 = "16", "bf16", "32"

AUTOCAST = {FLOAT16: torch.float16, BFLOAT16: torch.bfloat16}
"""Precision → type of convolutions under autocast. In float32 there is no autocast."""

OF_TRAINING = {
    **dict.fromkeys(("16", "16-mixed", "16-true", "transformer-engine-float16"), FLOAT16),
    **dict.fromkeys(("bf16", "bf16-mixed", "bf16-true", "transformer-engine"), BFLOAT16),
    **dict.fromkeys(("32", "32-true", "64", "64-true"), FLOAT32),
}
"""Lightning's name of a training's precision → the precision of prediction."""

_FIRST_WITH_BFLOAT16 = 8
"""Major compute capability of the first NVIDIA GPUs with bfloat16 (Ampere). Older ones emulate it, slowly."""


def has_precision(device: torch.device, precision: str) -> bool:
    """Whether a device computes in `FLOAT16`, `BFLOAT16` or `FLOAT32`. Of MPS only float32 is used, as in nnU-Net."""
    if precision == FLOAT32 or device.type in ("cpu", "mps"):
        return precision == FLOAT32 or (device.type, precision) == ("cpu", BFLOAT16)
    if precision == BFLOAT16 and device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device)[0] >= _FIRST_WITH_BFLOAT16
    return True


def precisions_of(device: torch.device) -> tuple[str, ...]:
    """The precisions that a device has."""
    return tuple(precision for precision in (FLOAT16, BFLOAT16, FLOAT32) if has_precision(device, precision))


def choose_precision(wanted: str, device: torch.device, trained: str | None = None) -> str:
    """The precision of a prediction.

    Args:
        wanted: ``auto``, or one of `FLOAT16`, `BFLOAT16` and `FLOAT32`.
        device: The device.
        trained: Lightning's name of the precision in which the network was trained; None if it is not known.

    Returns:
        The wanted one. For ``auto``: on CUDA that of the training, or float32 if the device lacks it; float16, as
        nnU-Net's, if it is not known; on other devices float32.

    Raises:
        SegflowError: The device lacks the wanted one.
    """
    if wanted != "auto":
        if not has_precision(device, wanted):
            raise SegflowError(
                f"inference.precision={wanted} is not possible on {device_name(device)}",
                expected=" | ".join(("auto", *precisions_of(device))),
                fix="Type inference.precision=auto.",
            )
        return wanted
    if device.type != "cuda":
        return FLOAT32
    natural = OF_TRAINING.get(trained or "", FLOAT16)
    return natural if has_precision(device, natural) else FLOAT32


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network of float32 weights computes in a precision."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def take_tf32_for_convolutions() -> None:
    """Let cuDNN compute float32 convolutions in TF32, as nnU-Net does: float32's range with float16's digits.

    Matrix products stay in float32, since resampling and augmentation use them. ``NVIDIA_TF32_OVERRIDE=0`` in the
    environment turns TF32 off everywhere.
    """
    cudnn = torch.backends.cudnn
    if hasattr(cudnn, "conv"):  # torch 2.9 and later
        cudnn.conv.fp32_precision = "tf32"
    else:
        cudnn.allow_tf32 = True


@contextmanager
def without_search() -> Iterator[None]:
    """Compute without cuDNN's search for the fastest kernels.

    The last batch of each image has another size, for which it would search again, and its result differs from one
    process to the next. Prediction should repeat its label maps.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def machine_facts(device: torch.device, precision: str) -> dict[str, Any]:
    """Facts of the machine that computes, plain JSON, for records.

    Args:
        device: The device.
        precision: The precision, in any words.
    """
    facts: dict[str, Any] = {
        "device": str(device),
        "precision": precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch": torch.__version__,
    }
    if device.type != "cuda":
        return facts
    return facts | {
        "device_name": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_search": torch.backends.cudnn.benchmark,
        "tf32_convolutions": _computes_in_tf32(),
    }


def _computes_in_tf32() -> bool:
    cudnn = torch.backends.cudnn
    allowed = cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32
    return bool(allowed) and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
