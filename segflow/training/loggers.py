"""Experiment loggers beside TensorBoard, and values that every logger gets once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from segflow.core.errors import SegflowError

OUTCOME = "hp/val_dice_ema"
"""Metric in TensorBoard's table of hyper-parameters."""


def log_hyper_parameters(trainer: pl.Trainer, values: Mapping[str, Any]) -> None:
    """Give every logger the few settings by which people compare runs."""
    for board in trainer.loggers:
        if isinstance(board, TensorBoardLogger):
            board.log_hyperparams(dict(values), {OUTCOME: 0.0})  # its table has no row without a metric
        else:
            board.log_hyperparams(dict(values))


def log_outcome(trainer: pl.Trainer, metrics: Mapping[str, float]) -> None:
    """Give every logger the final metrics of the run."""
    if "val/dice_ema" not in metrics:
        return
    for board in trainer.loggers:
        board.log_metrics({OUTCOME: metrics["val/dice_ema"]}, step=trainer.current_epoch)


def close_loggers(trainer: pl.Trainer) -> None:
    """Release state that loggers keep for the whole process, so that the next fold of a sweep gets its own run."""
    for board in trainer.loggers:
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
            name=_run_name(save_dir),
            resume="allow",
            **options,
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
        tags={"segflow_run": tag},
        tracking_uri=uri,
        **options,
    )


def _run_id(save_dir: str) -> str:
    return hashlib.sha256(str(Path(save_dir).resolve()).encode()).hexdigest()[:16]


def _run_name(save_dir: str) -> str:
    return "/".join(Path(save_dir).resolve().parts[1:][-5:])
