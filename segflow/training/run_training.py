"""The training of a fold, from its first step to its last file."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from segflow.core.errors import SegflowError
from segflow.core.wording import counted
from segflow.execution.interrupts import SIGTERM_EXIT
from segflow.execution.machine import GB, out_of_memory_kills, peak_bytes
from segflow.network.devices import lost_device
from segflow.training.augmentation_place import MeasuredPlace
from segflow.training.build_callbacks import build_callbacks
from segflow.training.build_data import build_data, build_on_device
from segflow.training.build_module import build_module
from segflow.training.checkpoints import RunCheckpoints, WholeCheckpointIO, link_checkpoint
from segflow.training.datamodule import EpochBatches, PatchDataModule
from segflow.training.ending_signals import exit_code_of
from segflow.training.epoch_progress import EpochProgress
from segflow.training.hyper_parameters import hyper_parameters
from segflow.training.loader import name_dead_worker
from segflow.training.loggers import begin_run, close_loggers
from segflow.training.loss_terms import distance_maps, term_tags
from segflow.training.memory_need import check_memory
from segflow.training.memory_shortage import memory_shortage_told
from segflow.training.module import SegmentationModule
from segflow.training.monitor import EpochReport
from segflow.training.objective import Objective
from segflow.training.protocols import TrainResult
from segflow.training.ranks import team
from segflow.training.step_time import NetworkStep
from segflow.training.stop_file import StopFile
from segflow.training.tags import possible_tags
from segflow.training.time_budget import TimeBudget
from segflow.training.trainer import build_trainer, epoch_batches, note_machine, trainer_options
from segflow.training.training_job import TrainingJob

logger = logging.getLogger(__name__)


def run_training(job: TrainingJob, *, resuming: bool) -> TrainResult:
    """Train to the end, or until a signal or the file STOP ends it.

    Args:
        job: The fold to train.
        resuming: Continue from the last checkpoint, if there is one.

    Raises:
        SegflowError: The trainer's options or the weights do not fit, the loss became NaN, a data worker died, or
            memory does not suffice.
        SystemExit: A signal ended the training.
    """
    has_validation = bool(job.record.val_cases)
    if not has_validation:
        logger.warning("the fold has no validation cases: there will be no pseudo-Dice and no best.ckpt")
    options = trainer_options(job.parts)
    batches = epoch_batches(options, has_validation=has_validation)
    epochs = EpochProgress(
        job.progress,
        val_steps=batches.val,
        scratch=job.arrays.scratch is not None,
        cases_after=job.parts.cases_after,
    )
    report = EpochReport(job.folder, job.record.dataset.labels, epochs.end_text)
    stop = StopFile(job.folder)
    files = WholeCheckpointIO()
    trainer = build_trainer(
        job.parts,
        job.folder,
        callbacks=[epochs, *build_callbacks(job, options, batches, report, stop, files)],
        files=files,
        batches=batches,
    )
    team().form(trainer.global_rank, trainer.world_size, trainer.strategy.launcher)
    if not trainer.max_epochs or trainer.max_epochs < 1:
        raise SegflowError("trainer.max_epochs must be at least 1", found=trainer.max_epochs)
    last = job.folder.checkpoint("last")
    resume_from = last if resuming and last.is_file() else None
    _check_checkpoints(job, trainer)
    if trainer.is_global_zero:
        job.folder.pruned_file.unlink(missing_ok=True)
    with memory_shortage_told(job, trainer):
        module = build_module(job, trainer, fresh=resume_from is None)
        check_memory(job, trainer, module)
        distances = distance_maps(job, module.loss)
        data = build_data(job, trainer, batches, distances)
        if distances is None:  # else they are made of the labels that the workers have augmented
            _place_augmentation(job, trainer, batches, module, data)
        note_machine(job.folder, trainer)
        _announce(job, trainer, resume_from)
        begin_run(trainer, hyper_parameters(job, trainer), job.record.settings, _tags(job, trainer, batches, module))
        started = time.monotonic()
        _fit(trainer, module, data, resume_from)
        seconds = time.monotonic() - started
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # none of its exchanges may wait for what follows
    return _finish(job, trainer, report, stop.stopped, seconds)


def _place_augmentation(
    job: TrainingJob, trainer: pl.Trainer, batches: EpochBatches, module: SegmentationModule, data: PatchDataModule
) -> None:
    """Augment on the device if the settings say so, or if a measurement at the start will."""
    choice, device = job.settings.augmentation_device, trainer.strategy.root_device
    # An augmentation of the user's own, without random choices that are made apart, may know the CPU only.
    measured = choice == "auto" and device.type == "cuda" and hasattr(job.augmentation, "draw")
    if choice == "device":
        build_on_device(job, trainer, batches).take_over(module, data)
    elif measured and not job.settings.repeat_batch:
        step = NetworkStep.of(job, trainer)
        _callbacks(trainer).append(MeasuredPlace(build_on_device(job, trainer, batches), step.seconds))


def _announce(job: TrainingJob, trainer: pl.Trainer, resume_from: Path | None) -> None:
    plan, record = job.record.plan, job.record
    logger.info(
        "%s %s fold %s: %d training and %d validation cases, batch %d of %s, %d epochs of %d batches, %s on %s",
        record.dataset.name,
        record.configuration,
        record.fold,
        len(record.train_cases),
        len(record.val_cases),
        plan.batch_size,
        "×".join(str(n) for n in plan.patch_size),
        trainer.max_epochs,
        int(trainer.limit_train_batches),
        trainer.precision,
        trainer.strategy.root_device,
    )
    if resume_from is not None:
        logger.info("going on from %s", resume_from)


def _tags(job: TrainingJob, trainer: pl.Trainer, batches: EpochBatches, module: SegmentationModule) -> list[str]:
    validation, volumes = bool(batches.val), bool(job.settings.volume_every)
    tags = possible_tags(job.record.dataset.labels, validation=validation, volumes=volumes)
    tags += term_tags(module.loss, validation=validation)
    on_gpu = trainer.strategy.root_device.type == "cuda"
    return [tag for tag in tags if on_gpu or not tag.startswith("memory/gpu")]


def _check_checkpoints(job: TrainingJob, trainer: pl.Trainer) -> None:
    """Warn at the start of everything that a training without checkpoints cannot do."""
    if _keeps_weights(trainer):
        return
    if job.folder.has_weights():
        raise SegflowError(
            f"{job.folder.path} has checkpoints, and this training would write none beside them",
            fix="Give it a run_name of its own, or leave trainer.enable_checkpointing on.",
        )
    logger.warning(
        "no checkpoint will be written: the run cannot go on after a stop, its validation cases are not "
        "predicted, and nothing can be predicted with it (trainer.enable_checkpointing=true writes them)"
    )


def _finish(job: TrainingJob, trainer: pl.Trainer, report: EpochReport, stopped: bool, seconds: float) -> TrainResult:
    epochs = len(report.history.get("train/loss", []))
    pruned = any(callback.pruned for callback in _callbacks(trainer) if isinstance(callback, Objective))
    finished = not (stopped or pruned) or epochs >= int(trainer.max_epochs or 0)
    pruned = pruned and not finished
    if trainer.is_global_zero:
        last = job.folder.checkpoint("last")
        if _keeps_weights(trainer) and last.is_file() and not pruned:
            link_checkpoint(last, job.folder.checkpoint("final"))
        used_up = [c.seconds for c in _callbacks(trainer) if isinstance(c, TimeBudget) and c.is_used_up]
        times = report.history.get("time/epoch", [])
        facts = {
            "epochs": epochs,
            "max_epochs": trainer.max_epochs,
            "max_time_seconds": used_up[0] if used_up else None,  # the budget that ended it
            "seconds": round(seconds, 1),
            "peak_memory_gib": round(peak_bytes() / GB, 3),  # without the processes that load data
            "fastest_epoch_seconds": min(times[:-1] if used_up else times, default=None),  # time cuts the last
            "metrics": {tag: None if math.isnan(v) else v for tag, v in report.latest.items()},
        }
        if finished:
            job.folder.mark_finished(facts)
        elif pruned:
            job.folder.mark_pruned(facts)
        end = "finished" if finished else "pruned" if pruned else "stopped"
        logger.info("%s after %s: %s", end, counted(epochs, "epoch"), job.folder.path)
        team().announce("end", epochs)
    else:
        team().hear("end")  # the files of the run are complete
    weights = _keeps_weights(trainer)
    return TrainResult(job.folder.path, finished, epochs, report.latest, has_weights=weights, pruned=pruned)


def _callbacks(trainer: pl.Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it undeclared
    return callbacks


def _keeps_weights(trainer: pl.Trainer) -> bool:
    return any(isinstance(callback, RunCheckpoints) for callback in _callbacks(trainer))


def _fit(trainer: pl.Trainer, module: SegmentationModule, data: PatchDataModule, resume_from: Path | None) -> None:
    kills = out_of_memory_kills()
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume_from)
    except SegflowError:
        raise
    except MisconfigurationException as error:
        raise SegflowError("Lightning refuses this training", found=" ".join(str(error).split())[:300]) from error
    except BaseException as error:
        if team().follows_another(error):
            raise  # it is worded where the team ends
        code = exit_code_of(error)
        if code is not None:
            what = "SIGTERM" if code == SIGTERM_EXIT else "Ctrl-C"
            if not team().place.several:  # else one of them says so
                logger.warning("ended by %s; to continue from the last whole epoch, run the same command again", what)
            raise SystemExit(code) from None
        dead = name_dead_worker(error, kills)
        if dead is not None:
            raise dead from None
        lost = lost_device(error, "the training")
        if lost is not None:
            raise lost from error
        raise
    finally:
        data.teardown("fit")
        close_loggers(trainer)
