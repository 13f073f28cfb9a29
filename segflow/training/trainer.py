"""Lightning's Trainer with the options of a segflow run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from segflow.core.errors import SegflowError
from segflow.execution.host import host_facts
from segflow.network.devices import another_device, check_device
from segflow.network.precision import machine_facts, take_tf32_for_convolutions
from segflow.storage.folds import Fold
from segflow.training.checkpoints import WholeCheckpointIO
from segflow.training.datamodule import TRAIN_BATCHES, VAL_BATCHES, EpochBatches, resolve_batches
from segflow.training.meeting import cluster_environment
from segflow.training.protocols import TrainingParts
from segflow.training.ranks import team
from segflow.training.training_devices import training_devices


def trainer_options(parts: TrainingParts) -> dict[str, Any]:
    """The options that are bound to the trainer's factory."""
    return dict(getattr(parts.trainer, "keywords", None) or {})


def epoch_batches(options: Mapping[str, Any], *, has_validation: bool) -> EpochBatches:
    """Training and validation batches of an epoch, from Lightning's two limits."""
    train = resolve_batches(options.get("limit_train_batches"), TRAIN_BATCHES, "limit_train_batches")
    val = resolve_batches(options.get("limit_val_batches"), VAL_BATCHES, "limit_val_batches")
    if train < 1:
        raise SegflowError("trainer.limit_train_batches must be at least 1", found=options.get("limit_train_batches"))
    return EpochBatches(train, val if has_validation else 0)


def build_trainer(
    parts: TrainingParts,
    folder: Fold,
    *,
    callbacks: Sequence[Callback],
    files: WholeCheckpointIO,
    batches: EpochBatches,
) -> pl.Trainer:
    """Build the trainer with Lightning's options from the settings and those that segflow decides.

    Raises:
        SegflowError: The options are impossible, such as more devices than the machine has, or a device is busy.
    """
    options = trainer_options(parts)
    where = training_devices(options)
    if where.kind == "cuda":
        take_tf32_for_convolutions()
    given = [*_as_list(options.get("callbacks")), *parts.callbacks]
    ours: dict[str, Any] = {
        "default_root_dir": str(folder.path),
        "callbacks": [*given, *callbacks],
        "logger": [build(save_dir=str(folder.path)) for build in parts.loggers] or False,
        "plugins": [*_as_list(options.get("plugins")), files, *_environment(options)],
        **where.options,
        "precision": where.precision,
        "limit_train_batches": batches.train,
        "limit_val_batches": batches.val,
        "log_every_n_steps": min(options.get("log_every_n_steps") or 50, batches.train),
        "num_sanity_val_steps": 0,  # the first epoch's validation is soon enough
        "use_distributed_sampler": False,  # the dataset divides batches itself
        "benchmark": _benchmark(options),
        "max_time": None,  # see TimeBudget, which ends the schedule as well
        "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in given),  # a user's own
        "enable_model_summary": options.get("enable_model_summary") or False,
    }
    try:
        trainer = parts.trainer(**ours)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise SegflowError(
            "the trainer cannot be built", found=" ".join(str(error).split())[:300], fix="Check trainer.* settings."
        ) from error
    _check_device(trainer.strategy.root_device)
    return trainer


def _check_device(device: torch.device) -> None:
    other = another_device(device)
    words = "trainer.accelerator=cpu trainer.devices=1 trainer.precision=auto"
    check_device(device, words if other is None else f"trainer.devices=[{other.index}]")


def note_machine(folder: Fold, trainer: pl.Trainer) -> None:
    """Note in ``run.json`` what the training really computes on and in, for its predictions and for people."""
    if trainer.is_global_zero:
        facts = machine_facts(trainer.strategy.root_device, str(trainer.precision))
        folder.note_machine({**facts, "processes": trainer.world_size, **host_facts()})


def _environment(options: Mapping[str, Any]) -> list[Any]:
    """What tells Lightning its rank. Lightning itself takes a task of SLURM for one of several even if it is alone."""
    given = any(isinstance(plugin, ClusterEnvironment) for plugin in _as_list(options.get("plugins")))
    return [] if given else [cluster_environment(team().place)]


def _benchmark(options: Mapping[str, Any]) -> bool:
    """Whether cuDNN searches for the fastest kernels. It pays, since patches have one size, but is not repeatable."""
    chosen = options.get("benchmark")
    return not options.get("deterministic") if chosen is None else bool(chosen)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
