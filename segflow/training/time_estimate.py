"""How long a training of a planned configuration takes on this machine, from a few steps of its network."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.wording import counted, duration_text
from segflow.execution.apart import Limits, TimeLimitError, call_apart
from segflow.execution.machine import GB, SHARE_OF_MEMORY, memory_bytes
from segflow.loss.compound import DiceCrossEntropy
from segflow.loss.deep_supervision import DeepSupervisionLoss
from segflow.network.build import build_network
from segflow.network.cpu.accelerate import accelerate
from segflow.network.cpu.allocation import tune_cpu
from segflow.network.device_memory import is_out_of_memory
from segflow.network.devices import device_name
from segflow.planning.memory import kept_values
from segflow.training.quicker_format import take_quicker_format
from segflow.training.step_time import NetworkStep
from segflow.training.training_devices import training_devices

WARM_UP, MEASURED = 2, 5
START_SECONDS = 60.0
"""Seconds that a process may take to load libraries and build a network, before its first step counts."""
SUBJECT = "a training step"
AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class StepTime:
    """The measured time of a training step, or the reason why there is none.

    Attributes:
        seconds: Mean seconds of a step; None if it was not measured.
        steps: Steps that the mean is of.
        warmed_up: Whether other steps went before. A first step loads kernels and takes longer.
        device: Where it was measured, in words.
        reason: Why it was not measured.
    """

    seconds: float | None
    steps: int = 0
    warmed_up: bool = True
    device: str = ""
    reason: str = ""

    def row(self, name: str, epochs: int, steps: int) -> tuple[str, ...]:
        """Cells under `header`.

        Args:
            name: The configuration.
            epochs: Planned epochs.
            steps: Iterations of an epoch.
        """
        if self.seconds is None:
            return (name, "–", f"not measured: {self.reason}", "–")
        how = counted(self.steps, "step") + ("" if self.warmed_up else ", the first one, which is slower")
        return (name, f"{self.seconds:.3g}", how, duration_text(self.seconds * epochs * steps))


def header(epochs: int, steps: int) -> tuple[str, ...]:
    """Names of the columns of `StepTime.row`."""
    return ("configuration", "s / iteration", "measured over", f"{epochs:,} × {steps:,} iterations")


def measure_step(plan: ConfigurationPlan, dataset: DatasetDescription, limit: float) -> StepTime:
    """Measure steps of the planned network on a batch of the planned patches, in a process of its own.

    A step is forward pass, loss, backward pass and optimizer on random numbers, on the device and in the precision that
    ``segflow train`` takes by default. Reading and augmentation of patches are not in it.

    Args:
        plan: The configuration.
        dataset: Its dataset, for channels and labels.
        limit: Seconds for the steps. If none ends by then, there is no measurement.
    """
    where = training_devices({})
    if where.own is None:
        return StepTime(None, reason=f"the device {where.kind} is not known")
    labels = dataset.labels
    channels = len(dataset.channels) + (len(labels.foreground_labels) if plan.previous_stage else 0)
    needed = 4 * plan.batch_size * kept_values(plan.topology, plan.patch_size, channels, labels.num_outputs)
    if where.kind == "cpu" and needed > SHARE_OF_MEMORY * memory_bytes():
        there = memory_bytes() / GB
        return StepTime(None, reason=f"a step needs about {needed / GB:.1f} GiB of memory, and there are {there:.1f}")
    limits = Limits(START_SECONDS + limit, sys.maxsize // 4)
    threads = torch.get_num_threads()
    arguments = (plan, channels, dataset, where.precision, str(where.own), threads, limit)
    try:
        measured: StepTime = call_apart(_measured, arguments, subject=SUBJECT, limits=limits)
    except TimeLimitError:
        return StepTime(None, reason=f"no step ended within {duration_text(limit)}")
    except SegflowError as error:
        return StepTime(None, reason=error.problem.removeprefix(f"reading {SUBJECT} "))
    return measured


def _measured(
    plan: ConfigurationPlan,
    channels: int,
    dataset: DatasetDescription,
    precision: str,
    device: str,
    threads: int,
    limit: float,
) -> StepTime:
    torch.set_num_threads(threads)
    tune_cpu()
    where = torch.device(device)
    try:
        measured = _timed(_step(plan, channels, dataset, AUTOCAST.get(precision), where), where, limit)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise SegflowError(f"the memory of {device_name(where)} does not suffice") from None
        raise
    return replace(measured, device=f"the CPU, {counted(threads, 'thread')}") if where.type == "cpu" else measured


def _timed(step: Callable[[], None], device: torch.device, limit: float) -> StepTime:
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < WARM_UP + MEASURED:
        before = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        times.append(now - before)
        if now - started + times[-1] > limit:
            break
    counted_ones = times[WARM_UP:] or times[1:] or times
    mean = sum(counted_ones) / len(counted_ones)
    return StepTime(mean, len(counted_ones), len(times) > 1, device_name(device))


def _step(
    plan: ConfigurationPlan,
    channels: int,
    dataset: DatasetDescription,
    autocast: torch.dtype | None,
    device: torch.device,
) -> Callable[[], None]:
    """One training step on random numbers, as a function."""
    labels, shape = dataset.labels, (plan.batch_size, channels, *plan.patch_size)
    network: nn.Module = build_network(plan.topology, channels, labels.num_outputs).to(device)
    if device.type == "cuda":
        take_quicker_format(network, NetworkStep(shape, device, autocast))
    if device.type == "cpu":
        accelerate(network)
    network.train()
    loss = DeepSupervisionLoss(DiceCrossEntropy(labels, plan.batch_dice), plan.topology.strides).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.99, nesterov=True)
    image = torch.randn(shape, device=device)
    target = torch.randint(0, len(labels.all_labels), (plan.batch_size, 1, *plan.patch_size), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            value = loss(network(image), target)
        value.backward()
        optimizer.step()

    return step
