"""The memory that a training needs, for the user's limit."""

from __future__ import annotations

import math

import pytorch_lightning as pl

from segflow.core.errors import SegflowError
from segflow.execution.machine import RAISE_THE_LIMIT, check_room, memory_limit
from segflow.network.build import build_network
from segflow.planning.memory import kept_values
from segflow.training.loader import choose_workers
from segflow.training.memory_shortage import settings_for_another_run
from segflow.training.module import SegmentationModule
from segflow.training.training_job import TrainingJob

OF_WEIGHTS = 2
"""Numbers for each weight beside the weight: its gradient, and the optimizer's momentum."""
LATER_LIBRARIES = 100 * 2**20
"""Bytes of libraries that are loaded during the first epoch, for curves and logs."""
WORKER_BYTES = 150 * 2**20
"""Bytes of a data worker that it does not share with the training process."""
BATCHES_OF_WORKER = 4
"""Batches that are in work in a data worker, or wait for the training."""


def check_memory(job: TrainingJob, trainer: pl.Trainer, module: SegmentationModule) -> None:
    """Refuse a training that exceeds the user's limit of memory, before its first step. Without a limit it may begin.

    Args:
        job: The fold to train.
        trainer: Lightning's trainer, which knows the device.
        module: What is trained.

    Raises:
        SegflowError: It needs more.
    """
    if memory_limit() is None:
        return
    plan, on_cpu = job.record.plan, trainer.strategy.root_device.type == "cpu"
    share = -(-plan.batch_size // trainer.world_size)
    weights = sum(weight.numel() for weight in module.network.parameters())
    workers = choose_workers(job.settings.num_workers, on_gpu=not on_cpu, processes=max(1, trainer.num_devices))
    batch = 4 * share * math.prod(plan.patch_size) * (job.record.in_channels + 1)
    wanted = LATER_LIBRARIES + workers * (WORKER_BYTES + BATCHES_OF_WORKER * batch)
    build = job.parts.network
    if on_cpu and getattr(build, "func", build) is build_network:  # of a user's own network it is not known
        outputs = job.record.dataset.labels.num_outputs
        kept = kept_values(plan.topology, plan.patch_size, job.record.in_channels, outputs)
        of_weights = OF_WEIGHTS + (job.settings.average != "none")
        wanted += 4 * (kept * share + of_weights * weights)
    patch = "×".join(str(n) for n in plan.patch_size)
    found = f"batch {share} of {job.record.in_channels}×{patch}, {weights / 1e6:.1f} M weights, {workers} data workers"
    try:
        check_room(wanted, "the training", found=found)
    except SegflowError as error:
        smaller = [*(["training.num_workers=0"] if workers else []), *settings_for_another_run(plan, share)]
        raise error.changed(fix=f"{RAISE_THE_LIMIT} These need less: {', '.join(smaller)}.") from None
