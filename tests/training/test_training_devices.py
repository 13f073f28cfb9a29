"""Devices, accelerator and precision of a training mean what Lightning documents; what is not there is told once."""

from __future__ import annotations

import itertools
import json
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.accelerators import CUDAAccelerator
from training_toy import Toy

from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.network.devices import another_device, check_device
from segflow.training.training_devices import training_devices
from segflow.training.training_settings import TrainerSettings, parse_devices

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes torch believe in GPUs of these names, or in none."""

    def have(*gpus: str, bfloat16: bool = True, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: gpus[index])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8 if bfloat16 else 7, 0))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.version, "cuda", "12.8")

    have()
    return have


@pytest.mark.parametrize("devices", ["auto", 1, 2, 3, "2", -1, "-1", [0], [1], [2, 0], "0,1", "1,", "0, 2"])
def test_numbers_of_gpus_are_lightnings(machine: Machine, devices: Any) -> None:
    machine("A", "B", "C")
    wanted = CUDAAccelerator.auto_device_count() if devices == "auto" else devices
    expected = CUDAAccelerator.get_parallel_devices(CUDAAccelerator.parse_devices(wanted))
    for accelerator in ("auto", "gpu", "cuda"):
        found = training_devices({"accelerator": accelerator, "devices": devices})
        assert (found.kind, list(found.devices), found.precision) == ("cuda", expected, "16-mixed")


@pytest.mark.parametrize(("devices", "processes"), [("auto", 1), (-1, 1), (1, 1), (3, 3), ("2", 2)])
def test_on_a_cpu_they_are_processes(machine: Machine, devices: Any, processes: int) -> None:
    machine("A", "B")
    found = training_devices({"accelerator": "cpu", "devices": devices, "precision": "auto"})
    assert found.devices == (torch.device("cpu"),) * processes
    assert found.precision == "32-true"
    trainer = pl.Trainer(**{"accelerator": "cpu", "devices": devices, "logger": False, **found.options})
    assert trainer.num_devices == processes


def test_mps_trains_in_float32_on_its_one_device(machine: Machine) -> None:
    machine(mps=True)
    for accelerator, devices in itertools.product(("auto", "gpu", "mps"), ("auto", 1, -1, [0])):
        found = training_devices({"accelerator": accelerator, "devices": devices})
        assert (found.kind, found.devices, found.precision) == ("mps", (torch.device("mps", 0),), "32-true")


@pytest.mark.parametrize(
    ("given", "full"),
    [(16, "16-mixed"), ("bf16", "bf16-mixed"), (32, "32-true"), ("64", "64-true"), ("bf16-true", "bf16-true")],
)
def test_a_precision_has_lightnings_names(machine: Machine, given: Any, full: str) -> None:
    machine("A")
    assert training_devices({"precision": given}).precision == full


def test_each_rank_has_its_own_device(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("A", "B", "C")
    found = training_devices({"devices": [2, 0]})
    assert found.own == torch.device("cuda", 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert found.own == torch.device("cuda", 0)


@pytest.mark.parametrize("devices", [0, "0", [], "", ",", "two", "[0]", -2, [0, 0], "1,1", [-1], "0,x"])
def test_what_is_no_choice_of_devices_is_refused(devices: Any) -> None:
    with pytest.raises(SegflowError, match=r"trainer\.devices is not a choice of devices"):
        TrainerSettings(devices=devices)


def test_the_message_says_what_there_is_and_what_to_type(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("NVIDIA A100", "Tesla T4")
    with pytest.raises(SegflowError) as caught:
        training_devices({"devices": 4})
    assert "trainer.devices=4" in str(caught.value)
    assert "2 GPUs: cuda:0 (NVIDIA A100), cuda:1 (Tesla T4)" in str(caught.value)
    assert str(caught.value).endswith("Type trainer.devices=2.")
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SegflowError, match=r"no GPU that torch .* can use, with CUDA_VISIBLE_DEVICES=''"):
        training_devices({"accelerator": "cuda"})


MACHINES = {"none": [], "one old": ["A"], "two": ["A", "B"], "mps": []}
ACCELERATORS = ("auto", "gpu", "cuda", "mps", "cpu", "quantum")
DEVICES = ("auto", -1, 1, 2, 5, [0], [1], [0, 1], [7], [0, 7], "0,1")
PRECISIONS = ("auto", 16, "bf16", 32, 64, "16-true", "bf16-true", "fp8")


@pytest.mark.parametrize(("name", "gpus"), MACHINES.items())
def test_the_advice_of_a_message_is_not_refused_by_the_next(machine: Machine, name: str, gpus: Sequence[str]) -> None:
    machine(*gpus, bfloat16=name == "two", mps=name == "mps")
    for options in itertools.product(ACCELERATORS, DEVICES, PRECISIONS):
        wanted = dict(zip(("accelerator", "devices", "precision"), options, strict=True))
        told: list[str] = []
        while len(told) < 4:
            try:
                training_devices(wanted)
                break
            except SegflowError as error:
                told.append(str(error))
                for key, value in re.findall(r"trainer\.(\w+)=(\S+?)[. ]*(?= |$)", str(error.fix)):
                    wanted[key] = yaml.safe_load(value)
        assert sum("unknown" not in text for text in told) <= 1, (options, told)  # an unknown word hides the rest


def test_one_process_or_several_depends_on_the_machine(machine: Machine) -> None:
    for gpus in ([], ["A"], ["A", "B"]):
        machine(*gpus)
        for devices in ("auto", -1):
            assert TrainerSettings(devices=devices).is_one_process == (len(gpus) < 2)
    assert TrainerSettings(accelerator="cpu", devices="auto").is_one_process
    for one in (1, "1", [1], "0,"):
        assert TrainerSettings(devices=one).is_one_process
    assert not TrainerSettings(devices=[0, 1]).is_one_process
    assert not TrainerSettings(devices=1, num_nodes=2).is_one_process


def test_a_busy_device_is_told_with_another_one(machine: Machine) -> None:
    machine("A", "B")
    assert another_device(torch.device("cuda", 0)) == torch.device("cuda", 1)
    assert another_device(torch.device("cpu")) is None
    with pytest.raises(SegflowError, match=r"'cuda:0' cannot be used now; found .*or type trainer.devices=\[1\]"):
        check_device(torch.device("cuda", 0), "trainer.devices=[1]")  # no kernel of CUDA is there


class Lost(pl.Callback):
    """A GPU that fails in the second epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nSearch for more")


def test_a_device_that_is_lost_is_told_and_the_training_goes_on(toy: Toy) -> None:
    with pytest.raises(SegflowError, match=r"a GPU failed and ended the training; found CUDA error: an illegal.*"):
        toy.train(callbacks=[Lost()])
    assert toy.train().epochs == 2


def facts_of(toy: Toy) -> dict[str, Any]:
    return json.loads(toy.run().record_file.read_text())["machine"]


def test_the_record_notes_the_machine_which_is_no_setting(toy: Toy) -> None:
    assert toy.train(trainer={"max_epochs": 1}).finished
    facts = facts_of(toy)
    where = {"device": "cpu", "precision": "32-true", "deterministic": False, "torch": torch.__version__}
    assert facts.items() >= {**where, "processes": 1, "host": platform.node(), "begun": facts["date"]}.items()
    assert facts["versions"].items() >= {"python": platform.python_version(), "torch": torch.__version__}.items()
    assert datetime.now(UTC) - datetime.fromisoformat(facts["date"]) < timedelta(hours=1)
    file = toy.run().record_file
    elsewhere = {**facts, "device": "cuda:0", "device_name": "NVIDIA A100", "precision": "16-mixed"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "machine": elsewhere}))
    assert not toy.train(trainer={"max_epochs": 1}).trained
    assert facts_of(toy) == elsewhere  # nothing was trained here
    assert toy.run().read_record().trained_precision == "16-mixed"
    record = replace(toy.record, settings={**toy.record.settings, "trainer": {"max_epochs": 2}})
    assert toy.train(trainer={"max_epochs": 2}, settings={"extend": True}, record=record).finished
    again = facts_of(toy)
    assert again["begun"] == facts["begun"] <= again["date"]
    assert {**again, "date": facts["date"]} == facts


def test_a_record_without_facts_has_the_precision_that_was_asked_for(toy: Toy) -> None:
    def precision(settings: Any, machine: Any = None) -> str | None:
        content = {**toy.record.to_json(), "settings": settings, **({"machine": machine} if machine else {})}
        return RunRecord.from_json(content).trained_precision

    assert precision({}) is None
    assert precision({"trainer": {"precision": "auto"}}) is None
    assert precision({"trainer": "nnUNetTrainer"}) is None
    assert precision({"trainer": {"precision": "bf16-mixed"}}) == "bf16-mixed"
    assert precision({"trainer": {"precision": 32}}, {"precision": "16-mixed"}) == "16-mixed"


def test_what_cannot_be_leaves_no_record(toy: Toy) -> None:
    for wrong in ({"accelerator": "cuda"}, {"devices": [0]}, {"precision": 16}):
        if "accelerator" in wrong and torch.cuda.is_available():
            continue
        with pytest.raises(SegflowError, match=r"Type trainer\."):
            toy.train(trainer=wrong)
        assert not toy.run().record_file.exists()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_of_a_cpu_trains(toy: Toy, precision: str) -> None:
    assert toy.train(trainer={"max_epochs": 1, "precision": precision}).finished
    assert facts_of(toy)["precision"] == precision


def test_parsed_devices_are_plain() -> None:
    assert parse_devices(" 0, 2 ") == [0, 2]
    assert parse_devices("auto") == "auto"
    assert parse_devices((3, 1)) == [3, 1]
