"""Lack of memory in a training, and the settings that need less."""

from __future__ import annotations

import re
import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch

from segflow.core.command_line import setting_text
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.network.device_memory import give_back, is_of_main_memory, is_out_of_memory
from segflow.network.precision import FLOAT16, has_precision
from segflow.planning.memory import measure
from segflow.planning.planner_settings import PlannerSettings
from segflow.training.training_job import TrainingJob

_SMALLER = 0.75
"""Share of the present patch's longest axis, and of the planned memory, that is advised."""


@contextmanager
def memory_shortage_told(job: TrainingJob, trainer: pl.Trainer) -> Iterator[None]:
    """Turn a lack of memory in the block into a message, and free what the block had in memory.

    Args:
        job: The fold that is trained.
        trainer: Lightning's trainer, which knows the device.

    Raises:
        SegflowError: Memory of the device, or of the machine, does not suffice.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # The traceback's frames hold the step's tensors, which the next job of a sweep would find in its way.
        traceback.clear_frames(error.__traceback__)
        give_back(trainer.strategy.root_device)
        raise _shortage(error, job, trainer) from error


def _shortage(error: Exception, job: TrainingJob, trainer: pl.Trainer) -> SegflowError:
    plan, device = job.record.plan, trainer.strategy.root_device
    in_main_memory = device.type == "cpu" or is_of_main_memory(error)
    share = -(-plan.batch_size // trainer.world_size)
    patch = "×".join(str(n) for n in plan.patch_size)
    advice = []
    if in_main_memory and job.settings.num_workers != 0:
        advice.append("Fewer data workers need less: training.num_workers=0.")
    if not in_main_memory and (same_run := _for_this_run(job, trainer, share)):
        advice.append(f"With these, the same command goes on where it ended: {', '.join(same_run)}.")
    advice.append(f"With a run_name of its own: {', '.join(settings_for_another_run(plan, share))}.")
    smaller = max(_SMALLER * _planned_gb(job), 0.1)
    planning = f"planner.memory_target_gb={smaller:.1f} planner.plans_name=smaller"
    advice.append(f"Or plan with {planning}, then preprocess and train with plans=smaller.")
    return SegflowError(
        f"the memory of {'this machine' if in_main_memory else device} does not suffice for the training",
        found=f"batch {share} of {job.record.in_channels}×{patch} in {trainer.precision}; {_amounts(error)}",
        fix=" ".join(advice),
    )


def _amounts(error: Exception) -> str:
    """What was asked for and what there is, from torch's message."""
    text = " ".join(str(error).split())
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", text)
    there = re.search(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", text)
    if asked is None:
        return text[:200] or type(error).__name__
    return f"it asked for {asked[1]}" + (f", and {there[2]} of {there[1]} are free" if there else "")


def _for_this_run(job: TrainingJob, trainer: pl.Trainer, share: int) -> list[str]:
    """Settings that an existing run may be continued with."""
    settings = []
    if "16" not in str(trainer.precision) and has_precision(trainer.strategy.root_device, FLOAT16):
        settings.append("trainer.precision=16")
    if getattr(trainer.lightning_module, "augmentation", None) is not None:
        settings.append("training.augmentation_device=cpu")
    if job.settings.compile != "off":
        settings.append("training.compile=off")
    if share > 1 and trainer.strategy.root_device.type == "cuda" and trainer.world_size < torch.cuda.device_count():
        settings.append(f"trainer.devices={min(torch.cuda.device_count(), trainer.world_size * share)}")
    return settings


def settings_for_another_run(plan: ConfigurationPlan, share: int) -> list[str]:
    """Settings that need less memory and make it another training, for this share of a batch in a process."""
    settings = []
    if share > 1:
        half = max(plan.batch_size // 2, 1)
        settings.append(f"configuration.batch_size={half} trainer.accumulate_grad_batches={plan.batch_size // half}")
    longest = max(range(len(plan.patch_size)), key=plan.patch_size.__getitem__)
    divisor = plan.topology.divisor[longest]
    shorter = int(_SMALLER * plan.patch_size[longest]) // divisor * divisor
    if shorter:
        patch = [shorter if axis == longest else n for axis, n in enumerate(plan.patch_size)]
        settings.append(f"configuration.patch_size={shlex.quote(setting_text(patch))}")
    return settings


def _planned_gb(job: TrainingJob) -> float:
    """The planner's estimate of the memory, by the constants of the default planner."""
    record, plan = job.record, job.record.plan
    settings = PlannerSettings(network=plan.topology.network)
    sizes = measure(plan.spatial_dims, record.in_channels, record.dataset.labels.num_outputs, settings)
    return sizes.gb(plan.topology, plan.patch_size, plan.batch_size)
