"""Trackers beside TensorBoard: a resumed run goes on in the same run there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from training_toy import PowerCut, Toy

from segflow.core.errors import SegflowError
from segflow.training import loggers
from segflow.training.loggers import mlflow_logger, wandb_logger


def interrupt_and_resume(toy: Toy, build: partial[object]) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train(loggers=[build], callbacks=[PowerCut(1)])
    assert toy.train(loggers=[build]).finished


def test_mlflow(toy: Toy, tmp_path: Path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    interrupt_and_resume(toy, partial(mlflow_logger, tracking_uri=uri))
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("segflow")
    (run,) = client.search_runs([experiment.experiment_id])
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [0, 1]


def test_wandb_offline(toy: Toy, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    interrupt_and_resume(toy, partial(wandb_logger, offline=True))
    runs = {file.stem for file in toy.run().path.glob("wandb/offline-run-*/run-*.wandb")}
    assert len(runs) == 1


def test_a_missing_tracker_says_how_to_get_it(toy: Toy, monkeypatch: pytest.MonkeyPatch):
    def missing(**options: object) -> None:
        raise ModuleNotFoundError("No module named 'wandb'")

    monkeypatch.setattr(loggers, "WandbLogger", missing)
    with pytest.raises(SegflowError, match=r"pip install segflow\[wandb\]"):
        wandb_logger(str(toy.folder))
