"""A measurement at the start decides whether the data workers augment, or the device."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import get_worker_info
from training_toy import Toy, make_parts, make_record

from segflow.augmentation.batch_augmentation import Augmentation, BatchAugmentation
from segflow.augmentation.intensity import Gamma
from segflow.network.build import build_network
from segflow.storage.folds import Fold
from segflow.training.augmentation_place import MeasuredPlace, Seconds
from segflow.training.build_data import build_data, build_on_device
from segflow.training.build_module import build_module
from segflow.training.checkpoints import WholeCheckpointIO
from segflow.training.datamodule import EpochBatches
from segflow.training.step_time import NetworkStep
from segflow.training.trainer import build_trainer
from segflow.training.training_job import FoldArrays, TrainingJob
from segflow.training.training_settings import TrainingSettings

BATCHES = EpochBatches(3, 0)


class _SlowSomewhere:
    """An augmentation that is slow in a worker, or in the training process."""

    def __init__(self, augmentation: BatchAugmentation, *, in_worker: bool) -> None:
        self._augmentation = augmentation
        self._in_worker = in_worker

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._augmentation, name)

    def apply(self, image: torch.Tensor, label: torch.Tensor, draws: Any) -> Any:
        if (get_worker_info() is not None) == self._in_worker:
            time.sleep(0.5)
        return self._augmentation.apply(image, label, draws)


@pytest.mark.parametrize("in_worker", [True, False], ids=["slow workers", "slow device"])
def test_the_quicker_place_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture, in_worker: bool) -> None:
    caplog.set_level(logging.INFO, "segflow")
    toy = Toy(tmp_path)
    steps = {"gamma": Gamma(probability=0.3)}
    plain = Augmentation(steps=steps)(
        (16, 16, 16), labels=toy.record.dataset.labels, use_mask_for_norm=[False], previous_stage=False
    )
    augmentation = _SlowSomewhere(plain, in_worker=in_worker)
    folder = Fold(tmp_path / "fold_0")
    settings = TrainingSettings(num_workers=1, compile="off")
    parts = make_parts({"max_epochs": 1, "enable_checkpointing": False, "limit_val_batches": 0})
    job = TrainingJob(folder, toy.record, FoldArrays(toy.store), parts, settings, augmentation, lambda event: None)
    trainer = build_trainer(parts, folder, callbacks=[], files=WholeCheckpointIO(), batches=BATCHES)
    module, data = build_module(job, trainer, fresh=True), build_data(job, trainer, BATCHES)
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    step = NetworkStep.of(job, trainer)
    measured = MeasuredPlace(build_on_device(job, trainer, BATCHES), step.seconds)
    trainer.callbacks.append(measured)
    seen: list[bool] = []
    measured.on_train_start = lambda trainer, module: seen.append(  # type: ignore[method-assign]
        all(torch.equal(value, before[name]) for name, value in module.network.state_dict().items())
    )
    trainer.fit(module, datamodule=data)
    data.teardown("fit")
    assert seen == [True]  # the measurement changes no weight
    assert (module.augmentation is not None) is in_worker
    (told,) = [record.message for record in caplog.records if "augmented" in record.message]
    assert told.startswith("batches are augmented " + ("on cpu" if in_worker else "by 1 data workers"))


def test_workers_work_beside_the_network_and_the_device_between_its_passes() -> None:
    seconds = Seconds(step=0.2, augmented=0.15, read=0.01, augmentation=0.05, workers=3)
    assert seconds.by_workers == 0.2
    assert seconds.on_device == 0.25
    alone = Seconds(step=0.2, augmented=0.15, read=0.01, augmentation=0.05, workers=0)
    assert alone.by_workers == pytest.approx(0.35)
    assert alone.on_device == pytest.approx(0.26)
    slow_disk = Seconds(step=0.2, augmented=0.5, read=0.4, augmentation=0.05, workers=3)
    assert slow_disk.on_device == 0.4


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_measuring_a_step_leaves_the_network_as_it_was(norm: str) -> None:
    torch.manual_seed(0)
    network = build_network(make_record().plan.topology, 1, 3, norm=norm)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step = NetworkStep((2, 1, 16, 16, 16), torch.device("cpu"), torch.bfloat16)
    assert step.seconds(network) > 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_on_a_cpu_the_workers_augment_and_nothing_is_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "segflow")
    Toy(tmp_path).train(trainer={"max_epochs": 1})
    assert not [record for record in caplog.records if "augmented" in record.message]
