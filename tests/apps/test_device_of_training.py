"""Within a command that trains, whole cases are predicted on the device of the training and scored in its precision."""

from __future__ import annotations

import pytest
import torch

from segflow.apps import _edge, _training, train


def composed(*overrides: str) -> train.Train:
    record = _edge.compose("train", *overrides)
    assert isinstance(record, train.Train)
    return record


def test_device_auto_is_the_device_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for overrides, device in [
        ([], "cuda:0"),
        (["trainer.devices=[1]"], "cuda:1"),
        (["trainer.accelerator=cpu"], "cpu"),
        (["trainer.accelerator=cpu", "inference.device=cuda"], "cuda"),
        (["trainer.devices=[7]"], "auto"),  # trained elsewhere, or refused by the training itself
    ]:
        assert _training.on_training_device(composed(*overrides)).device == device


def test_volumes_are_scored_in_the_precision_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _training._window_of_training(composed()).precision == "32"
    assert _training._window_of_training(composed("trainer.precision=bf16-mixed")).precision == "bf16"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert _training._window_of_training(composed()).precision == "16"
    assert _training._window_of_training(composed("trainer.precision=bf16")).precision == "bf16"
    assert _training._window_of_training(composed("inference.precision=32")).precision == "32"
