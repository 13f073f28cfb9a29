"""Compilation of the network, if a measurement shows that it helps."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Sequence

import torch
from torch import nn

from segflow.network.device_memory import give_back, is_out_of_memory
from segflow.network.levels import logits_of_levels

logger = logging.getLogger(__name__)

_WARM_UP, _MEASURED = 2, 5
MIN_GAIN = 1.03
"""Compiled code is used if it makes a step faster by at least this factor."""


def compile_if_it_pays(
    network: nn.Module, choice: str, *, shape: Sequence[int], device: torch.device, autocast: torch.dtype | None
) -> bool:
    """Compile the network in place, or not, and log the reason. Names of parameters stay the same.

    Args:
        network: The network, on its device.
        choice: ``on``, ``off``, or ``auto``, which measures on a GPU.
        shape: (B, C, *patch) of a batch.
        device: Device of the training.
        autocast: Type of mixed precision, or None.

    Returns:
        Whether it is compiled.
    """
    if choice == "off":
        return False
    if choice == "on":
        network.compile()
        return True
    if device.type != "cuda" or sys.platform == "win32":
        logger.debug("the network is not compiled: tried on NVIDIA GPUs only")
        return False
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        eager, compiled, failure = _both_ways(network, shape, device, autocast)
    finally:
        network.zero_grad(set_to_none=True)
        for buffer, before in buffers:
            buffer.copy_(before)  # such as running statistics, which must not begin with zeros
    give_back(device)
    if failure is None and eager / compiled >= MIN_GAIN:
        logger.info("the network is compiled: %.1f ms a step instead of %.1f ms", compiled * 1e3, eager * 1e3)
        return True
    network._compiled_call_impl = None
    reason = failure or f"{compiled * 1e3:.1f} ms a step against {eager * 1e3:.1f} ms"
    logger.info("the network is not compiled: %s", reason)
    return False


def _both_ways(
    network: nn.Module, shape: Sequence[int], device: torch.device, autocast: torch.dtype | None
) -> tuple[float, float, str | None]:
    """Seconds of a step, eager and compiled, and why one of them failed. The network is left compiled."""
    eager = compiled = math.inf
    try:
        eager = _seconds(network, shape, device, autocast)
        network.compile()
        compiled = _seconds(network, shape, device, autocast)
    except Exception as error:
        if is_out_of_memory(error):  # a training without the compiler may need less
            return eager, compiled, "the memory does not suffice to measure it"
        if eager == math.inf:
            raise
        # The compiler or its tools fail; training works without them.
        return eager, compiled, str(error).splitlines()[0][:120] if str(error) else repr(error)
    return eager, compiled, None


def _seconds(network: nn.Module, shape: Sequence[int], device: torch.device, autocast: torch.dtype | None) -> float:
    """Seconds of a forward and backward pass."""
    image = torch.zeros(tuple(shape), device=device)
    for step in range(_WARM_UP + _MEASURED):
        if step == _WARM_UP:
            torch.cuda.synchronize(device)
            started = time.perf_counter()
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            loss = torch.stack([logits.float().mean() for logits in logits_of_levels(network(image))]).sum()
        loss.backward()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / _MEASURED
