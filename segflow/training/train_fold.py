"""Training of a fold: start, continue, or report that it is finished."""

from __future__ import annotations

import logging
from dataclasses import replace

from segflow.core.errors import SegflowError
from segflow.core.labels import key_text
from segflow.core.run_record import RunRecord
from segflow.execution.place import place_of
from segflow.execution.progress import Progress, silent
from segflow.storage.folds import Fold
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.training.build_part import build_part
from segflow.training.channel_dropping import missing_channels_of
from segflow.training.claim_folder import FREE_SETTINGS, check_arrays_of_run, claim_folder
from segflow.training.ending_signals import leave_process_group
from segflow.training.finished_run import finished_before, goes_on
from segflow.training.full_disk import full_disk_told_once
from segflow.training.protocols import AugmentationLike, TrainingParts, TrainResult
from segflow.training.ranks import is_first_rank, joined
from segflow.training.run_training import run_training
from segflow.training.start import Start, start_of_rank_0
from segflow.training.trainer import trainer_options
from segflow.training.training_job import FoldArrays, TrainingJob
from segflow.training.training_settings import TrainingSettings

logger = logging.getLogger(__name__)

AUGMENTATION = (
    "something that is called with (patch_size, labels=…, use_mask_for_norm=…, previous_stage=…, left_right_axis=…) "
    "and gives a transform of batches, called with (image, label, generator), with loader_patch_size and mirror_axes"
)


def train_fold(
    folder: Fold,
    record: RunRecord,
    arrays: FoldArrays,
    parts: TrainingParts,
    settings: TrainingSettings | None = None,
    *,
    progress: Progress = silent,
) -> TrainResult:
    """Train a fold. The same call continues after an interruption, and returns at once if the fold is finished.

    It writes ``run.json`` first. After every epoch it writes ``metrics.csv``, ``progress.png``, the loggers' files,
    ``checkpoints/last.ckpt`` and ``best.ckpt``, and at the end ``final.ckpt``.

    Args:
        folder: The fold's folder, which is made if it is missing.
        record: Record of the fold. Its mirror axes are taken from the augmentation, and what images may lack from the
            settings and the cases.
        arrays: What it is trained on.
        parts: Network, loss, optimizer, …
        settings: Settings beside the parts.
        progress: Called several times in an epoch, with a `TrainingEvent`.

    Raises:
        SegflowError: A part or file is missing or does not fit; the arrays are not those of the plans or of the run's
            other folds; the folder holds another run; the loss became NaN; a data worker died.
        SystemExit: 130 after Ctrl-C, 143 after SIGTERM or a batch system's warning. The checkpoint of the last epoch
            exists.
    """
    settings = settings or TrainingSettings()
    leave_process_group()
    record.plan.check()
    options = trainer_options(parts)
    place = place_of(options.get("devices", "auto"), options.get("num_nodes", 1), options.get("strategy", "auto"))
    with joined(place, folder.path.name):
        _check_cases(record, arrays.store, arrays.made_by)
        identity = check_arrays_of_run(folder, record, arrays.store, arrays.made_by, arrays.previous_stage)
        augmentation = _augmentation(parts, record, _look_at_cases(record, arrays.store))
        missing = missing_channels_of(settings, record, arrays.store)
        record = replace(record, mirror_axes=tuple(augmentation.mirror_axes), arrays=identity, missing=missing)
        return _train(TrainingJob(folder, record, arrays, parts, settings, augmentation, progress))


def _train(job: TrainingJob) -> TrainResult:
    folder, options = job.folder, trainer_options(job.parts)

    def claim() -> Start:
        resuming = claim_folder(folder, job.record, free=FREE_SETTINGS, extend=job.settings.extend)
        ended = folder.is_finished() and not goes_on(folder, options, extend=job.settings.extend)
        return Start(resuming, ended)

    start = start_of_rank_0(folder, claim)
    if start.is_finished:
        return finished_before(folder)
    try:
        near = job.arrays.near((*job.record.train_cases, *job.record.val_cases))
        with full_disk_told_once(folder.path):
            return run_training(replace(job, arrays=near), resuming=start.is_resumed)
    except BaseException:  # also a signal, which arrives as SystemExit or KeyboardInterrupt
        if is_first_rank() and not (folder.has_weights() or folder.metrics_csv.is_file()):
            folder.record_file.unlink(missing_ok=True)  # without an epoch it is not a run
        raise


def _augmentation(parts: TrainingParts, record: RunRecord, left_right_axis: int | None) -> AugmentationLike:
    plan = record.plan
    augmentation: AugmentationLike = build_part(
        "augmentation",
        parts.augmentation,
        AUGMENTATION,
        plan.patch_size,
        has=("loader_patch_size", "mirror_axes"),
        labels=record.dataset.labels,
        use_mask_for_norm=plan.use_mask_for_norm,
        previous_stage=plan.previous_stage is not None,
        left_right_axis=left_right_axis,
    )
    return augmentation


def _check_cases(record: RunRecord, store: PreprocessedStore, preprocess: str) -> None:
    present = set(store.case_ids())
    missing = sorted({*record.train_cases, *record.val_cases} - present)
    if missing or not record.train_cases:
        raise SegflowError(
            "the fold's cases are not all preprocessed" if missing else "the fold has no training cases",
            found=f"{len(missing)} missing in {store.folder}, such as {missing[0]}" if missing else None,
            fix=f"Run: {preprocess}" if missing else "Check splits_final.json.",
        )


def _look_at_cases(record: RunRecord, store: PreprocessedStore) -> int | None:
    """Warn about labels that no training case has, which cannot be learnt, so that their Dice is 0.

    Returns:
        The plan axis from left to right of the patient; None if images do not say or differ.
    """
    labels = record.dataset.labels
    found: set[int | None] = set()
    present: set[str] = set()
    for case_id in record.train_cases:  # once for both, since there may be many
        facts = store.facts(case_id)
        present.update(facts.keys)
        found.add(facts.left_right)
    absent = [labels.name_of(key) for key in labels.foreground_keys if key_text(key) not in present]
    if absent:
        logger.warning("none of the %d training cases has: %s", len(record.train_cases), ", ".join(absent))
    return found.pop() if len(found) == 1 else None
