"""Compilation of the network, if a measurement shows that it helps."""

from __future__ import annotations

import logging
import math
import sys

from torch import nn

from segflow.network.device_memory import give_back, is_out_of_memory
from segflow.training.step_time import NetworkStep

logger = logging.getLogger(__name__)

MIN_GAIN = 1.03
"""Compiled code is used if it makes a step faster by at least this factor."""


def compile_if_it_pays(network: nn.Module, choice: str, step: NetworkStep) -> bool:
    """Compile the network in place, or not, and log the reason. Names of parameters stay the same.

    Args:
        network: The network, on its device.
        choice: ``on``, ``off``, or ``auto``, which measures on a GPU.
        step: The step that should become quicker.

    Returns:
        Whether it is compiled.
    """
    if choice == "off":
        return False
    if choice == "on":
        network.compile()
        return True
    if step.device.type != "cuda" or sys.platform == "win32":
        logger.debug("the network is not compiled: tried on NVIDIA GPUs only")
        return False
    eager, compiled, failure = _both_ways(network, step)
    give_back(step.device)
    if failure is None and eager / compiled >= MIN_GAIN:
        logger.info("the network is compiled: %.1f ms a step instead of %.1f ms", compiled * 1e3, eager * 1e3)
        return True
    network._compiled_call_impl = None
    reason = failure or f"{compiled * 1e3:.1f} ms a step against {eager * 1e3:.1f} ms"
    logger.info("the network is not compiled: %s", reason)
    return False


def _both_ways(network: nn.Module, step: NetworkStep) -> tuple[float, float, str | None]:
    """Seconds of a step, eager and compiled, and why one of them failed. The network is left compiled."""
    eager = compiled = math.inf
    try:
        eager = step.seconds(network)
        network.compile()
        compiled = step.seconds(network)
    except Exception as error:
        if is_out_of_memory(error):  # a training without the compiler may need less
            return eager, compiled, "the memory does not suffice to measure it"
        if eager == math.inf:
            raise
        # The compiler or its tools fail; training works without them.
        return eager, compiled, str(error).splitlines()[0][:120] if str(error) else repr(error)
    return eager, compiled, None
