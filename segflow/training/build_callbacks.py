"""The callbacks of a fold's training, in the order in which Lightning calls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.callbacks import Callback

from segflow.core.errors import SegflowError
from segflow.training.checkpoints import RunCheckpoints, WholeCheckpointIO
from segflow.training.datamodule import EpochBatches
from segflow.training.ending_signals import EndingSignals
from segflow.training.epoch_seed import EpochSeed
from segflow.training.loss_guard import LossGuard
from segflow.training.loss_terms import LossTerms
from segflow.training.monitor import EpochReport
from segflow.training.objective import Objective
from segflow.training.patch_pictures import PatchPictures
from segflow.training.stop_file import StopFile
from segflow.training.tags import possible_tags
from segflow.training.time_budget import TimeBudget, parse_duration
from segflow.training.training_job import TrainingJob
from segflow.training.volume_validation import VolumeValidation
from segflow.training.weight_average import build_average


def build_callbacks(
    job: TrainingJob,
    options: Mapping[str, Any],
    batches: EpochBatches,
    report: EpochReport,
    stop: StopFile,
    files: WholeCheckpointIO,
) -> list[Callback]:
    """Build the callbacks that watch the training and write its files.

    Args:
        job: The fold to train.
        options: Options that are bound to the trainer's factory.
        batches: Batches of an epoch.
        report: Keeps the curves.
        stop: Looks for the file STOP.
        files: Writes checkpoints.

    Raises:
        SegflowError: The settings ask for scores of whole cases, and there is no `TrainingParts.score_volumes`.
    """
    settings = job.settings
    callbacks: list[Callback] = [
        EndingSignals(),
        EpochSeed(settings.seed),
        LossGuard(job.folder, settings.skip_limit),
    ]
    if options.get("max_time") is not None:
        callbacks.append(TimeBudget(parse_duration(options["max_time"]), batches.val))
    callbacks += [LossTerms(report), report, _objective(job, report), stop]
    if settings.picture_every:
        labels, spacing = job.record.dataset.labels, job.record.plan.spacing
        callbacks.append(PatchPictures(labels, spacing, every=settings.picture_every, count=settings.picture_count))
    if settings.volume_every and job.record.val_cases:
        every, count = settings.volume_every, settings.volume_count
        score, cases = job.parts.score_volumes, job.record.val_cases
        if score is None:
            raise SegflowError("training.volume_every needs TrainingParts.score_volumes", found="none")
        callbacks.append(VolumeValidation(score, cases, every=every, count=count, report=report))
    average = build_average(settings)
    if average is not None:
        callbacks.append(average)  # after those that look at a validation, during which it is in the network
    if options.get("enable_checkpointing", True) is not False and not options.get("fast_dev_run"):
        callbacks.append(RunCheckpoints(job.folder, files))
    return callbacks


def _objective(job: TrainingJob, report: EpochReport) -> Objective:
    """Looks for the objective in the first epoch if it is not one of segflow's own values, which may come later."""
    name = job.parts.objective
    own = name in possible_tags(job.record.dataset.labels)
    return Objective(report, None if own else name, job.parts.judge)
