"""The door of this room: train one fold, or go on with it, or say that it is done."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from segflow.augmentation.pipeline import ValidationTransform
from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.execution.interrupts import SIGTERM_EXIT
from segflow.execution.machine import out_of_memory_kills, processor_count
from segflow.execution.progress import Progress, silent
from segflow.loss.deep_supervision import DeepSupervisionLoss
from segflow.sampling.patch_dataset import PatchDataset
from segflow.storage.folds import Fold
from segflow.storage.images import left_right_axis
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.training.checkpoints import RunCheckpoints, WholeCheckpointIO, link_checkpoint
from segflow.training.claim_folder import FREE_SETTINGS, check_arrays_of_run, claim_folder
from segflow.training.compilation import compile_if_it_pays
from segflow.training.datamodule import PatchDataModule
from segflow.training.device_augmentation import DeviceAugmentation
from segflow.training.ending_signals import EndingSignals, exit_code_of, leave_process_group, signals_of_ranks
from segflow.training.epoch_seed import EpochSeed
from segflow.training.finished_run import finished_before, goes_on
from segflow.training.full_disk import full_disk_told_once
from segflow.training.initial_weights import read_initial_weights, transfer_weights
from segflow.training.loader import name_dead_worker
from segflow.training.loggers import close_loggers, log_hyper_parameters
from segflow.training.loss_guard import LossGuard
from segflow.training.module import SegmentationModule
from segflow.training.monitor import EpochReport
from segflow.training.parameters import freeze
from segflow.training.patch_pictures import PatchPictures
from segflow.training.protocols import AugmentationLike, TrainingParts, TrainResult
from segflow.training.ranks import is_first_rank
from segflow.training.stop_file import StopFile
from segflow.training.time_budget import TimeBudget, parse_duration
from segflow.training.trainer import build_trainer, epoch_batches, trainer_options
from segflow.training.training_settings import TrainingSettings
from segflow.training.volume_validation import VolumeValidation

logger = logging.getLogger(__name__)

PREPROCESS = "segflow preprocess"
CORES_FOR_WORKERS = 6
"""With fewer cores for each GPU, augmenting on the GPU is what keeps it busy."""


def train_fold(
    folder: Fold,
    record: RunRecord,
    store: PreprocessedStore,
    parts: TrainingParts,
    settings: TrainingSettings | None = None,
    *,
    previous_stage: PreprocessedStore | None = None,
    free_settings: Sequence[str] = FREE_SETTINGS,
    preprocess: str = PREPROCESS,
    progress: Progress = silent,
) -> TrainResult:
    """Train one fold; the same call goes on after an interruption, and returns at once after the end.

    Writes into the folder: ``run.json`` first, then after every epoch ``metrics.csv``, ``progress.png``, the loggers'
    files and ``checkpoints/last.ckpt`` and ``best.ckpt``, and at the end ``final.ckpt``.

    Args:
        folder: The run's folder, made where it is missing.
        record: What is trained; its mirror axes are taken from the augmentation.
        store: Preprocessed cases of the configuration.
        parts: Network, loss, optimizer, …
        settings: Our own knobs.
        previous_stage: Labels that the previous stage predicted, on the same grid, where the plan has one.
        free_settings: What may differ from the run that is in the folder, see `FREE_SETTINGS`.
        preprocess: The command that makes the arrays, for messages.
        progress: Told after every epoch.

    Raises:
        SegflowError: Something is missing or does not fit; the arrays are not those of the plans, or not those that
            the run's other folds were trained on; the folder holds another run; the loss became NaN; a data
            worker died.
        SystemExit: 130 after Ctrl-C, 143 after SIGTERM or a batch system's warning; the last epoch's checkpoint is
            there.
    """
    settings = settings or TrainingSettings()
    leave_process_group()
    plan = record.plan
    plan.check()
    _check_cases(record, store, preprocess)
    arrays = check_arrays_of_run(folder, record, store, preprocess, previous_stage)
    _name_absent_labels(record, store)
    augmentation = parts.augmentation(
        plan.patch_size,
        labels=record.dataset.labels,
        use_mask_for_norm=plan.use_mask_for_norm,
        previous_stage=plan.previous_stage is not None,
        left_right_axis=_left_right_axis(record, store),
    )
    record = replace(record, mirror_axes=tuple(augmentation.mirror_axes), arrays=arrays)
    resuming = _claim(folder, record, settings, free_settings)
    if folder.is_finished() and not goes_on(folder, trainer_options(parts), extend=settings.extend):
        return finished_before(folder)
    run = _Run(folder, record, store, parts, settings, augmentation, previous_stage, progress)
    try:
        with full_disk_told_once(folder.path):
            return run.train(resuming)
    except BaseException:  # a signal too: it arrives as SystemExit or KeyboardInterrupt
        if is_first_rank() and not (folder.has_weights() or folder.metrics_csv.is_file()):
            folder.record_file.unlink(missing_ok=True)  # not one epoch: no other command shall take it for a run
        raise


@dataclass(slots=True)
class _Run:
    folder: Fold
    record: RunRecord
    store: PreprocessedStore
    parts: TrainingParts
    settings: TrainingSettings
    augmentation: AugmentationLike
    previous_stage: PreprocessedStore | None
    progress: Progress

    def train(self, resuming: bool) -> TrainResult:
        has_validation = bool(self.record.val_cases)
        if not has_validation:
            logger.warning("the fold has no validation cases: there will be no pseudo-Dice and no best.ckpt")
        options = trainer_options(self.parts)
        train_batches, val_batches = epoch_batches(options, has_validation=has_validation)
        report = EpochReport(self.folder, self.record.dataset.labels, self.progress)
        stop = StopFile(self.folder)
        files = WholeCheckpointIO()
        trainer = build_trainer(
            self.parts,
            self.folder,
            callbacks=self._callbacks(options, report, stop, files),
            files=files,
            loggers=[build(save_dir=str(self.folder.path)) for build in self.parts.loggers],
            train_batches=train_batches,
            val_batches=val_batches,
        )
        if not trainer.max_epochs or trainer.max_epochs < 1:
            raise SegflowError("trainer.max_epochs must be at least 1", found=trainer.max_epochs)
        last = self.folder.checkpoint("last")
        resume_from = last if resuming and last.is_file() else None
        self._check_checkpoints(trainer)
        on_device = self._augments_on_device(trainer)
        module = self._module(trainer, on_device, fresh=resume_from is None)
        data = self._data(trainer, on_device, train_batches, val_batches)
        self._announce(trainer, resume_from)
        started = time.monotonic()
        _fit(trainer, module, data, resume_from)
        return self._finish(trainer, report, stop.stopped, time.monotonic() - started)

    def _callbacks(
        self, options: dict[str, Any], report: EpochReport, stop: StopFile, files: WholeCheckpointIO
    ) -> list[Callback]:
        settings = self.settings
        callbacks: list[Callback] = [
            EndingSignals(),
            EpochSeed(settings.seed),
            LossGuard(self.folder, settings.skip_limit),
        ]
        if options.get("max_time") is not None:
            callbacks.append(TimeBudget(parse_duration(options["max_time"])))
        callbacks += [report, stop]
        if settings.picture_every:
            labels = self.record.dataset.labels
            callbacks.append(PatchPictures(labels, every=settings.picture_every, count=settings.picture_count))
        if settings.volume_every and self.record.val_cases:
            every, count = settings.volume_every, settings.volume_count
            score, cases = self.parts.score_volumes, self.record.val_cases
            if score is None:
                raise SegflowError("training.volume_every needs TrainingParts.score_volumes", found="none")
            callbacks.append(VolumeValidation(score, cases, every=every, count=count, report=report))
        if options.get("enable_checkpointing", True) is not False and not options.get("fast_dev_run"):
            callbacks.append(RunCheckpoints(self.folder, files))
        return callbacks

    def _module(self, trainer: pl.Trainer, on_device: bool, *, fresh: bool) -> SegmentationModule:
        record, settings, parts, plan = self.record, self.settings, self.parts, self.record.plan
        labels = record.dataset.labels
        torch.manual_seed(settings.seed)
        try:
            network = parts.network(plan.topology, record.in_channels, labels.num_outputs, settings.deep_supervision)
        except TypeError as error:
            raise SegflowError(
                "the network cannot be built",
                found=error,
                expected="something that is called with (topology, in_channels, out_channels, deep_supervision)",
            ) from error
        if fresh and settings.initial_weights is not None:
            source = Path(settings.initial_weights).expanduser()
            transfer_weights(network, read_initial_weights(source), str(source))
        freeze(network, settings.freeze)
        device = trainer.strategy.root_device
        if settings.compile != "off":
            share = -(-plan.batch_size // trainer.world_size)
            compile_if_it_pays(
                network.to(device),
                settings.compile,
                shape=(share, record.in_channels, *plan.patch_size),
                device=device,
                autocast={"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(str(trainer.precision)),
            )
        return SegmentationModule(
            network,
            DeepSupervisionLoss(parts.loss(labels, plan.batch_dice), plan.topology.strides),
            labels,
            parts.optimizer,
            parts.schedule,
            total_epochs=int(trainer.max_epochs or 1),
            lr_factors=settings.lr_factors,
            augmentation=DeviceAugmentation(
                self.augmentation,
                seed=settings.seed,
                batch_size=plan.batch_size,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
            )
            if on_device
            else None,
        )

    def _data(self, trainer: pl.Trainer, on_device: bool, train_batches: int, val_batches: int) -> PatchDataModule:
        record, plan, labels = self.record, self.record.plan, self.record.dataset.labels
        shared: dict[str, Any] = {
            "batch_size": plan.batch_size,
            "seed": self.settings.seed,
            "previous_stage": self.previous_stage,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
        }
        train = PatchDataset(
            self.store,
            record.train_cases,
            sampler=self.parts.sampler(self.augmentation.loader_patch_size, plan.patch_size, labels=labels),
            transform=None if on_device else self.augmentation,
            batches_per_epoch=train_batches,
            stream=0,
            **shared,
        )
        val = None
        if val_batches:
            val = PatchDataset(
                self.store,
                record.val_cases,
                sampler=self.parts.sampler(plan.patch_size, plan.patch_size, labels=labels),
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
            num_workers=self.settings.num_workers,
            batch_bytes=(
                self._batch_bytes(train, self.augmentation.loader_patch_size if on_device else plan.patch_size),
                0 if val is None else self._batch_bytes(val, plan.patch_size),
            ),
            repeat_batch=self.settings.repeat_batch,
        )

    def _batch_bytes(self, dataset: PatchDataset, patch: Sequence[int]) -> int:
        """Of one batch as a worker hands it over: the image in float32, the label in int16."""
        return len(dataset.samples) * math.prod(patch) * (4 * self.record.in_channels + 2)

    def _augments_on_device(self, trainer: pl.Trainer) -> bool:
        choice = self.settings.augmentation_device
        if choice != "auto":
            return choice == "device"
        cores = processor_count() // max(1, trainer.num_devices)
        return trainer.strategy.root_device.type == "cuda" and cores < CORES_FOR_WORKERS

    def _announce(self, trainer: pl.Trainer, resume_from: Path | None) -> None:
        plan, record = self.record.plan, self.record
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
        hyper_parameters = {
            "dataset": record.dataset.name,
            "configuration": record.configuration,
            "fold": str(record.fold),
            "batch_size": plan.batch_size,
            "patch_size": "x".join(str(n) for n in plan.patch_size),
            "max_epochs": trainer.max_epochs,
            "seed": self.settings.seed,
        }
        log_hyper_parameters(trainer, hyper_parameters)

    def _check_checkpoints(self, trainer: pl.Trainer) -> None:
        """Say what will be missing where no checkpoint is written, before hours are spent."""
        if _keeps_weights(trainer):
            return
        if self.folder.has_weights():
            raise SegflowError(
                f"{self.folder.path} has checkpoints, and this training would write none beside them",
                fix="Give it a run_name of its own, or leave trainer.enable_checkpointing on.",
            )
        logger.warning(
            "no checkpoint will be written: the run cannot go on after a stop, its validation cases are not "
            "predicted, and nothing can be predicted with it (trainer.enable_checkpointing=true writes them)"
        )

    def _finish(self, trainer: pl.Trainer, report: EpochReport, stopped: bool, seconds: float) -> TrainResult:
        epochs = len(report.history.get("train/loss", []))
        finished = not stopped or epochs >= int(trainer.max_epochs or 0)
        if trainer.is_global_zero:
            last = self.folder.checkpoint("last")
            if _keeps_weights(trainer) and last.is_file():
                link_checkpoint(last, self.folder.checkpoint("final"))
            used_up = [c.seconds for c in _callbacks(trainer) if isinstance(c, TimeBudget) and c.is_used_up]
            facts = {
                "epochs": epochs,
                "max_epochs": trainer.max_epochs,
                "max_time_seconds": used_up[0] if used_up else None,  # which ended it
                "seconds": round(seconds, 1),
                "fastest_epoch_seconds": min(report.history.get("time/epoch", [math.nan])),
                "metrics": {tag: None if math.isnan(v) else v for tag, v in report.latest.items()},
            }
            if finished:
                self.folder.mark_finished(facts)
            logger.info("%s after %d epochs: %s", "finished" if finished else "stopped", epochs, self.folder.path)
        return TrainResult(self.folder.path, finished, epochs, report.latest, has_weights=_keeps_weights(trainer))


def _callbacks(trainer: pl.Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it undeclared
    return callbacks


def _keeps_weights(trainer: pl.Trainer) -> bool:
    return any(isinstance(callback, RunCheckpoints) for callback in _callbacks(trainer))


def _fit(trainer: pl.Trainer, module: SegmentationModule, data: PatchDataModule, resume_from: Path | None) -> None:
    kills = out_of_memory_kills()
    try:
        with signals_of_ranks(trainer):
            trainer.fit(module, datamodule=data, ckpt_path=resume_from)
    except SegflowError:
        raise
    except MisconfigurationException as error:
        raise SegflowError("Lightning refuses this training", found=" ".join(str(error).split())[:300]) from error
    except BaseException as error:
        code = exit_code_of(error)
        if code is not None:
            what = "SIGTERM" if code == SIGTERM_EXIT else "Ctrl-C"
            logger.warning("ended by %s; the same command goes on from the last whole epoch", what)
            raise SystemExit(code) from None
        dead = name_dead_worker(error, kills)
        if dead is not None:
            raise dead from None
        raise
    finally:
        data.teardown("fit")
        close_loggers(trainer)


def _claim(folder: Fold, record: RunRecord, settings: TrainingSettings, free_settings: Sequence[str]) -> bool:
    """Rank 0 writes; the others were started by it, so that the record is there."""
    if not is_first_rank():
        return True
    return claim_folder(folder, record, free=free_settings, extend=settings.extend)


def _check_cases(record: RunRecord, store: PreprocessedStore, preprocess: str) -> None:
    present = set(store.case_ids())
    missing = sorted({*record.train_cases, *record.val_cases} - present)
    if missing or not record.train_cases:
        raise SegflowError(
            "the fold's cases are not all preprocessed" if missing else "the fold has no training cases",
            found=f"{len(missing)} missing in {store.folder}, such as {missing[0]}" if missing else None,
            fix=f"Run: {preprocess}" if missing else "Check splits_final.json.",
        )


def _name_absent_labels(record: RunRecord, store: PreprocessedStore) -> None:
    """Warn of what no training case has: it cannot be learnt, and its Dice is 0 wherever a validation case has it."""
    labels = record.dataset.labels
    present = {key for case_id in record.train_cases for key in store.open(case_id).foreground.keys}
    absent = [labels.name_of(key) for key in labels.foreground_keys if key not in present]
    if absent:
        logger.warning("none of the %d training cases has: %s", len(record.train_cases), ", ".join(absent))


def _left_right_axis(record: RunRecord, store: PreprocessedStore) -> int | None:
    """The plan axis from left to right of the patient; None where images do not say, or lie in different ways."""
    found = set()
    for case_id in record.train_cases:
        spatial = store.open(case_id).spatial
        axis = left_right_axis(spatial.geometry)
        found.add(None if axis is None else spatial.axis_order.index(axis))
    return found.pop() if len(found) == 1 else None
