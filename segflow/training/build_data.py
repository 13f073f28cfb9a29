"""Batches of a fold's training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from segflow.augmentation.validation_transform import ValidationTransform
from segflow.core.run_record import RunRecord
from segflow.loss.distance_maps import DistanceMaps
from segflow.sampling.channel_presence import ChannelPresence
from segflow.sampling.patch_dataset import PatchDataset
from segflow.sampling.patch_sampler import BoxSampler
from segflow.training.augmentation_place import OnDevice
from segflow.training.build_part import build_part
from segflow.training.channel_dropping import dropping_of
from segflow.training.datamodule import EpochBatches, PatchDataModule
from segflow.training.device_augmentation import DeviceAugmentation
from segflow.training.protocols import AugmentationLike
from segflow.training.training_job import TrainingJob

SAMPLER = (
    "something that is called with (patch_size_loader, patch_size_final, labels=…) and gives a sampler: called with "
    "(case, generator, force_foreground) → Box, with patch_size, is_2d and forced, as "
    "segflow.sampling.patch_sampler.PatchSampler has them"
)


def build_data(
    job: TrainingJob, trainer: pl.Trainer, batches: EpochBatches, distances: DistanceMaps | None = None
) -> PatchDataModule:
    """Build the patches of the training and validation cases. The data workers augment them.

    Args:
        job: The fold to train.
        trainer: Lightning's trainer.
        batches: Batches of an epoch. Without validation batches there is no validation data.
        distances: Makes the distance maps that the loss needs; None if it needs none.
    """
    record, plan, labels = job.record, job.record.plan, job.record.dataset.labels
    train = _train_patches(job, trainer, batches, job.augmentation, distances)
    val = None
    if batches.val:
        val = PatchDataset(
            job.arrays.store,
            record.val_cases,
            sampler=_sampler(job, plan.patch_size),
            transform=ValidationTransform(
                plan.patch_size, labels=labels, previous_stage=plan.previous_stage is not None
            ),
            batches_per_epoch=batches.val,
            stream=1,
            channels_present=_channels_present(job, dropped=False),
            distances=distances,
            **_shared(job, trainer),
        )
    return PatchDataModule(
        train,
        val,
        batches=batches,
        num_workers=job.settings.num_workers,
        batch_bytes=(
            _batch_bytes(job, train, plan.patch_size),
            0 if val is None else _batch_bytes(job, val, plan.patch_size),
        ),
        repeat_batch=job.settings.repeat_batch,
    )


def build_on_device(job: TrainingJob, trainer: pl.Trainer, batches: EpochBatches) -> OnDevice:
    """Build what augments the training batches on the device, after the data workers have read them."""
    patches = _train_patches(job, trainer, batches, None)
    augmentation = DeviceAugmentation(
        job.augmentation,
        seed=job.settings.seed,
        batch_size=job.record.plan.batch_size,
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )
    return OnDevice(augmentation, patches, _batch_bytes(job, patches, job.augmentation.loader_patch_size))


def _train_patches(
    job: TrainingJob,
    trainer: pl.Trainer,
    batches: EpochBatches,
    transform: AugmentationLike | None,
    distances: DistanceMaps | None = None,
) -> PatchDataset:
    return PatchDataset(
        job.arrays.store,
        job.record.train_cases,
        sampler=_sampler(job, job.augmentation.loader_patch_size),
        transform=transform,
        batches_per_epoch=batches.train,
        stream=0,
        channels_present=_channels_present(job, dropped=True),
        distances=distances,
        **_shared(job, trainer),
    )


def _shared(job: TrainingJob, trainer: pl.Trainer) -> dict[str, Any]:
    return {
        "batch_size": job.record.plan.batch_size,
        "seed": job.settings.seed,
        "previous_stage": job.arrays.previous_stage,
        "labels_present": _labels_present(job.record),
        "rank": trainer.global_rank,
        "world_size": trainer.world_size,
    }


def _labels_present(record: RunRecord) -> dict[str, list[bool]] | None:
    """Case → whether it tells of each foreground label or region; None if all cases of the fold tell of all."""
    labels = record.dataset.labels
    absent = {case_id: labels.absent_keys(case_id) for case_id in (*record.train_cases, *record.val_cases)}
    if not any(absent.values()):
        return None
    return {case_id: [key not in keys for key in labels.foreground_keys] for case_id, keys in absent.items()}


def _channels_present(job: TrainingJob, *, dropped: bool) -> ChannelPresence | None:
    """Which channels of a sample are there; None if all of them always are, and the network is not told."""
    if job.record.missing is None:
        return None
    chosen = dropping_of(job.settings, job.record.dataset.channels)
    return chosen if dropped else ChannelPresence((0.0,) * len(job.record.dataset.channels))


def _batch_bytes(job: TrainingJob, dataset: PatchDataset, patch: Sequence[int]) -> int:
    """Bytes of a batch as a worker sends it: image and distance maps in float32, the label in int16."""
    maps = 0 if dataset.distances is None else len(job.record.dataset.labels.foreground_keys)
    return len(dataset.samples) * math.prod(patch) * (4 * (job.record.in_channels + maps) + 2)


def _sampler(job: TrainingJob, patch_size: Sequence[int]) -> BoxSampler:
    """For patches of this size, from which the final ones are made."""
    final, labels = job.record.plan.patch_size, job.record.dataset.labels
    has = ("patch_size", "is_2d", "forced")
    return build_part("sampler", job.parts.sampler, SAMPLER, patch_size, final, has=has, labels=labels)
