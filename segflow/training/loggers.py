"""Experiment loggers, and values that each of them gets once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from segflow.core.errors import SegflowError
from segflow.training.board import add_charts, begin_row, end_row
from segflow.training.hyper_parameters import Plain, flattened
from segflow.training.run_names import short_name

FINAL = (TensorBoardLogger, WandbLogger, MLFlowLogger)
"""Loggers that add to a finished run; Lightning's table would begin anew."""


def begin_run(
    trainer: pl.Trainer, values: Mapping[str, Plain], settings: Mapping[str, Any], tags: Sequence[str]
) -> None:
    """Give every logger what it is told once, at the start.

    Args:
        trainer: Has the loggers.
        values: The few values by which people compare runs.
        settings: All settings of the run, for loggers that can search them.
        tags: Tags that the training may log.
    """
    if not trainer.is_global_zero:  # the loggers of other processes write nothing
        return
    for board in trainer.loggers:
        if isinstance(board, TensorBoardLogger):
            add_charts(board, tags)
            begin_row(board, values)
        elif isinstance(board, MLFlowLogger):
            _log_new_parameters(board, {**values, **flattened(settings)})
        elif isinstance(board, WandbLogger):
            board.log_hyperparams({**values, "settings": dict(settings)})
        else:
            board.log_hyperparams(dict(values))


def takes_pictures(board: Logger) -> bool:
    """Whether `log_picture` knows this kind of logger."""
    return isinstance(board, TensorBoardLogger | WandbLogger | MLFlowLogger)


def log_picture(board: Logger, tag: str, picture: np.ndarray, epoch: int) -> None:
    """Give a logger a picture, uint8 (height, width, 3)."""
    if isinstance(board, TensorBoardLogger):
        board.experiment.add_image(tag, picture, epoch, dataformats="HWC")
    elif isinstance(board, WandbLogger):
        board.log_image(tag, [picture], caption=[f"epoch {epoch}"])
    elif isinstance(board, MLFlowLogger):
        board.experiment.log_image(board.run_id, picture, key=tag, step=epoch)


def end_run(trainer: pl.Trainer, values: Mapping[str, float]) -> None:
    """Give every logger the values that it is told once, at the end."""
    for board in trainer.loggers:
        board.log_metrics(dict(values), step=max(0, trainer.current_epoch - 1))
        if isinstance(board, TensorBoardLogger):
            end_row(board)


def log_scores(
    loggers: Sequence[Callable[..., Logger]], folder: Path, scores: Mapping[str, float], epochs: int
) -> None:
    """Add scores of whole cases to a run whose training has ended.

    Args:
        loggers: Each ``(save_dir=fold's folder)`` → logger.
        folder: The fold's folder.
        scores: Tag → score; those that are NaN are left out.
        epochs: Epochs of the training.
    """
    known = {tag: score for tag, score in scores.items() if not math.isnan(score)}
    boards = [build(save_dir=str(folder)) for build in loggers]
    for board in boards:
        if known and isinstance(board, FINAL):
            board.log_metrics(known, step=max(0, epochs - 1))
            board.finalize("success")
    _finish_wandb(boards)


def close_loggers(trainer: pl.Trainer) -> None:
    """Release state that loggers keep for the whole process, so that the next fold of a sweep gets its own run."""
    _finish_wandb(trainer.loggers)


def _finish_wandb(boards: Sequence[Logger]) -> None:
    for board in boards:
        if isinstance(board, WandbLogger):
            board.experiment.finish()


def wandb_logger(save_dir: str, project: str = "segflow", offline: bool = False, **options: Any) -> Logger:
    """Logger for Weights & Biases. A resumed run continues its run there.

    Args:
        save_dir: The fold's folder.
        project: Project of the run.
        offline: Write only files.
        **options: Options of Lightning's WandbLogger.

    Raises:
        SegflowError: The package is not installed.
    """
    try:
        return WandbLogger(
            save_dir=save_dir,
            project=project,
            offline=offline,
            id=_run_id(save_dir),
            resume="allow",
            **{"name": _run_name(save_dir), "group": _group(save_dir), **options},
        )
    except ModuleNotFoundError as error:
        raise SegflowError("logger=wandb needs a package", found=str(error), fix="pip install segflow[wandb]") from None


def mlflow_logger(
    save_dir: str, experiment: str = "segflow", tracking_uri: str | None = None, **options: Any
) -> Logger:
    """Logger for MLflow. A resumed run continues its run there.

    Args:
        save_dir: The fold's folder, by which the run is found again.
        experiment: Experiment of the run.
        tracking_uri: Server or file store; None leaves the choice to MLflow.
        **options: Options of Lightning's MLFlowLogger.

    Raises:
        SegflowError: The package is not installed.
    """
    try:
        import mlflow
    except ModuleNotFoundError as error:
        raise SegflowError(
            "logger=mlflow needs a package", found=str(error), fix="pip install segflow[mlflow]"
        ) from None
    uri = tracking_uri or mlflow.get_tracking_uri()
    client = mlflow.MlflowClient(uri)
    known = client.get_experiment_by_name(experiment)
    tag, run_id = _run_id(save_dir), None
    if known is not None:
        runs = client.search_runs([known.experiment_id], f"tags.segflow_run = '{tag}'", max_results=1)
        run_id = runs[0].info.run_id if runs else None
    return MLFlowLogger(
        experiment_name=experiment,
        run_name=_run_name(save_dir),
        run_id=run_id,
        tags={"segflow_run": tag, "group": _group(save_dir)},
        tracking_uri=uri,
        **options,
    )


def _run_id(save_dir: str) -> str:
    return hashlib.sha256(str(Path(save_dir).resolve()).encode()).hexdigest()[:16]


def _run_name(save_dir: str) -> str:
    return short_name(Path(save_dir).resolve())


def _group(save_dir: str) -> str:
    """What the folds of a run have in common: ``<dataset>/<plans>/<configuration>/<run_name>``."""
    return "/".join(Path(save_dir).resolve().parts[1:-1][-4:])


def _log_new_parameters(board: MLFlowLogger, values: Mapping[str, Any]) -> None:
    """MLflow refuses another value for a parameter, which a continued run may have, such as more epochs."""
    known = board.experiment.get_run(board.run_id).data.params
    board.log_hyperparams({name: value for name, value in values.items() if name not in known})
