"""Trainings on GPUs: every kind of network and labels, in half precision, with one wait in a step."""

from __future__ import annotations

import functools
import math
import sys
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import tiny_models
import torch
from pretended_cuda import Record, record

from segflow.network.build import build_network
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.training.train_fold import train_fold
from segflow.training.training_job import FoldArrays
from segflow.training.training_settings import TrainingSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from test_training_kinds import with_labels, with_plan
from training_toy import CASES, PATCH, TENSORBOARD, PowerCut, Toy, make_case, make_parts

SCALER = "item in torch/amp/grad_scaler.py:_maybe_opt_step"
"""The scaler's look at whether a gradient overflowed, torch's own. It comes at the end of a step."""

GUARD = "item in training/loss_guard.py:_are_finite"
"""The same look where there is no scaler."""

FIRST_LOOK = "item in augmentation/batch_augmentation.py:_is_finite"
"""What a step of the augmentation makes is looked at the first time."""

OF_AN_EPOCH = {
    # the values of the epoch
    "tolist in training/loss_guard.py:_look",
    "tolist in training/module.py:take_epoch_values",
    "item in training/module.py:take",
    # Lightning logs numbers as tensors and reads them
    "copy to the device in pytorch_lightning/core/module.py:__to_tensor",
    "item in lightning_fabric/utilities/apply_func.py:to_item",
    # the checkpoint
    "item in training/checkpoints.py:on_train_epoch_end",
    "item in torch/amp/grad_scaler.py:get_scale",
    "item in torch/amp/grad_scaler.py:_get_growth_tracker",
    "save in training/checkpoints.py:_write",
    # the picture
    "copy to main memory in training/patch_pictures.py:_logits",
}
TRAINING, VALIDATION, ELSE = "a training step", "a validation step", "between steps"


class Phases(pl.Callback):
    """Notes what happens in steps, and between them from the first step to the last epoch's end."""

    def __init__(self) -> None:
        self.found: dict[str, Record] = defaultdict(Record)
        self._now = ExitStack()

    def _enter(self, phase: str, *_: Any, **__: Any) -> None:
        self._now.close()
        self._now.enter_context(record(self.found[phase]))

    def on_train_batch_start(self, *arguments: Any) -> None:
        self._enter(TRAINING)

    def on_train_batch_end(self, *arguments: Any) -> None:
        self._enter(ELSE)

    def on_validation_batch_start(self, *arguments: Any) -> None:
        self._enter(VALIDATION)

    def on_validation_batch_end(self, *arguments: Any) -> None:
        self._enter(ELSE)

    def on_train_end(self, *arguments: Any) -> None:
        self._now.close()

    on_exception = on_train_end


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setattr("segflow.training.monitor.write_progress_picture", lambda curves, file: None)
    return Toy(tmp_path)


def train(toy: Toy, name: str, *, trainer: dict[str, Any] | None = None, **changes: Any) -> Phases:
    """Train two epochs of three steps with pictures and augmentation on the device."""
    phases = Phases()
    settings = {"picture_every": 1, "augmentation_device": "device", "compile": "off", **changes.pop("settings", {})}
    options = {"accelerator": "gpu", **(trainer or {})}
    changes = {"loggers": [TENSORBOARD], "callbacks": [phases], **changes}
    result = toy.train(name, trainer=options, settings=settings, **changes)
    assert result.finished
    assert math.isfinite(result.metrics["train/loss"])
    return phases


def plan(toy: Toy, dims: int, network: str) -> Any:
    architecture = tiny_models.topology(dims, network).to_architecture()
    return with_plan(toy.record, patch_size=[16] * dims, spacing=[1.0] * dims, architecture=architecture, batch_size=2)


def partly(toy: Toy) -> Any:
    for seed, case_id in enumerate(CASES):
        case = make_case(case_id, seed)
        label = case.label.copy()
        label[:4] = 3
        toy.store.write(replace(case, label=label), PATCH)
    return with_labels(toy.record, {"background": 0, "ball": 1, "core": 2, "ignore": 3})


KINDS = {
    "3d": lambda toy: {"record": toy.record},
    "2d": lambda toy: {"record": plan(toy, 2, "plain_unet")},
    "residual 3d": lambda toy: {"record": plan(toy, 3, "residual_unet")},
    "residual 2d": lambda toy: {"record": plan(toy, 2, "residual_unet")},
    "batch norm": lambda toy: {"network": functools.partial(build_network, norm="batch")},
    "regions": lambda toy: {"record": with_labels(toy.record, {"background": 0, "whole": [1, 2], "core": 2}, [1, 2])},
    "ignore label": lambda toy: {"record": partly(toy)},
    "augmentation in the workers": lambda toy: {"settings": {"augmentation_device": "cpu"}},
    "augmentation where it is quicker": lambda toy: {"settings": {"augmentation_device": "auto"}},
    "channels last": lambda toy: {"network": functools.partial(build_network, memory_format="channels_last")},
    "contiguous": lambda toy: {"network": functools.partial(build_network, memory_format="contiguous")},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_waits_once_and_all_convolutions_are_half(toy: Toy, kind: str) -> None:
    phases = train(toy, "run", **KINDS[kind](toy))
    check(phases)
    layouts = {layout for _, layout, *_ in phases.found[TRAINING].convolutions if layout == "channels last"}
    if kind in ("channels last", "contiguous"):  # else it is measured
        assert bool(layouts) == (kind == "channels last")


def check(phases: Phases, dtype: str = "float16", device: str = "cuda:0") -> None:
    steps = phases.found[TRAINING].waits
    assert steps.pop(FIRST_LOOK, 0) <= 4  # two steps of the augmentation, before and after
    assert steps == {SCALER if dtype == "float16" else GUARD: 6}
    assert phases.found[VALIDATION].waits == {}
    of_scaler = set() if dtype == "float16" else {wait for wait in OF_AN_EPOCH if "grad_scaler" in wait}
    assert set(phases.found[ELSE].waits) == OF_AN_EPOCH - of_scaler
    noted = [key for found in phases.found.values() for key in found.convolutions]
    assert {kind for kind, *_ in noted} == {dtype}
    assert {where for *_, where, _ in noted} == {device}
    assert {"training/module.py:training_step", "backward or test"} <= {place for *_, place in noted}
    assert "training/patch_pictures.py:_logits" in {place for *_, place in noted}


def test_a_cascade(toy: Toy) -> None:
    previous = PreprocessedStore(toy.folder / "previous")
    for seed, case_id in enumerate(CASES):
        previous.write(make_case(case_id, seed), PATCH)
    cascade, phases = with_plan(toy.record, previous_stage="3d_lowres"), Phases()
    parts = make_parts({"accelerator": "gpu"}, loggers=[TENSORBOARD], callbacks=[phases])
    settings = TrainingSettings(num_workers=0, picture_every=1, augmentation_device="device", compile="off")
    assert train_fold(toy.run(), cascade, FoldArrays(toy.store, previous), parts, settings).finished
    # A part of the previous stage's label that is removed is found in main memory.
    phases.found[TRAINING].waits.pop("copy to main memory in augmentation/cascade.py:_remove", None)
    check(phases)


def test_bfloat16(toy: Toy) -> None:
    check(train(toy, "run", trainer={"precision": "bf16-mixed"}), "bfloat16")


def test_the_chosen_gpu_is_used(toy: Toy) -> None:
    check(train(toy, "run", trainer={"devices": [1]}), device="cuda:1")


def test_single_precision_learns_what_the_cpu_learns(toy: Toy) -> None:
    check(train(toy, "gpu", trainer={"precision": "32-true"}), "float32")
    toy.train("cpu", settings={"augmentation_device": "device"})
    here, there = toy.weights("cpu"), toy.weights("gpu")
    for name, expected in here.items():
        torch.testing.assert_close(there[name], expected, rtol=1e-3, atol=1e-4, msg=name)


def test_a_training_that_was_cut_goes_on_to_the_same_weights(toy: Toy) -> None:
    of_one_format = functools.partial(build_network, memory_format="contiguous")  # else it is measured at each start
    train(toy, "whole", network=of_one_format)
    with pytest.raises(RuntimeError, match="power cut"):
        train(toy, "cut", network=of_one_format, callbacks=[PowerCut(1)])
    train(toy, "cut", network=of_one_format, callbacks=[])
    whole, cut = toy.weights("whole"), toy.weights("cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
