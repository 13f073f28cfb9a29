"""The batches of one fold's training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from segflow.augmentation.validation_transform import ValidationTransform
from segflow.sampling.patch_dataset import PatchDataset
from segflow.training.datamodule import PatchDataModule
from segflow.training.training_job import TrainingJob


def build_data(
    job: TrainingJob, trainer: pl.Trainer, *, on_device: bool, train_batches: int, val_batches: int
) -> PatchDataModule:
    """Patches of the training and validation cases.

    Args:
        job: What is trained.
        trainer: Lightning's.
        on_device: Whether training batches are augmented on the device, so that the workers leave them as they are.
        train_batches, val_batches: Of an epoch; without any for validation there is no such data.
    """
    record, plan, labels = job.record, job.record.plan, job.record.dataset.labels
    shared: dict[str, Any] = {
        "batch_size": plan.batch_size,
        "seed": job.settings.seed,
        "previous_stage": job.previous_stage,
        "rank": trainer.global_rank,
        "world_size": trainer.world_size,
    }
    train = PatchDataset(
        job.store,
        record.train_cases,
        sampler=job.parts.sampler(job.augmentation.loader_patch_size, plan.patch_size, labels=labels),
        transform=None if on_device else job.augmentation,
        batches_per_epoch=train_batches,
        stream=0,
        **shared,
    )
    val = None
    if val_batches:
        val = PatchDataset(
            job.store,
            record.val_cases,
            sampler=job.parts.sampler(plan.patch_size, plan.patch_size, labels=labels),
            transform=ValidationTransform(
                plan.patch_size, labels=labels, previous_stage=plan.previous_stage is not None
            ),
            batches_per_epoch=val_batches,
            stream=1,
            **shared,
        )
    return PatchDataModule(
        train,
        val,
        train_batches=train_batches,
        val_batches=val_batches,
        num_workers=job.settings.num_workers,
        batch_bytes=(
            _batch_bytes(job, train, job.augmentation.loader_patch_size if on_device else plan.patch_size),
            0 if val is None else _batch_bytes(job, val, plan.patch_size),
        ),
        repeat_batch=job.settings.repeat_batch,
    )


def _batch_bytes(job: TrainingJob, dataset: PatchDataset, patch: Sequence[int]) -> int:
    """Of one batch as a worker hands it over: the image in float32, the label in int16."""
    return len(dataset.samples) * math.prod(patch) * (4 * job.record.in_channels + 2)
