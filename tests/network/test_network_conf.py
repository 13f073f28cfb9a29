"""Every shipped option of the network and loss groups names something that can be built."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from segflow.apps import _edge
from segflow.core.labels import Labels
from segflow.core.topology import NetworkTopology

CONF = Path(__file__).resolve().parents[2] / "conf"
PLAN = NetworkTopology("plain_unet", (4, 8), ((3, 3), (3, 3)), ((1, 1), (2, 2)), (1, 1), (1,))
LABELS = Labels.from_json({"background": 0, "a": 1})


def _options(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


def _composed(file: Path) -> dict[str, Any]:
    """An option with the options that it names as its defaults."""
    own = yaml.safe_load(file.read_text())
    bases = [name for name in own.pop("defaults", []) if name != "_self_"]
    return {k: v for name in bases for k, v in _composed(file.with_name(f"{name}.yaml")).items()} | own


def _target(file: Path) -> tuple[Callable[..., Any], dict[str, Any]]:
    options = _composed(file)
    assert options.pop("_partial_") is True
    module, name = options.pop("_target_").rsplit(".", 1)
    return getattr(importlib.import_module(module), name), options


@pytest.mark.parametrize("option", [file.stem for file in _options("network")])
def test_network(option: str) -> None:
    build = _edge.compose("train", f"network={option}").network.build()
    network = build(PLAN, 1, LABELS.num_outputs, True)
    assert network(torch.zeros(2, 1, 8, 8))[0].shape == (2, 2, 8, 8)


@pytest.mark.parametrize("file", _options("loss"), ids=lambda file: file.stem)
def test_loss(file: Path) -> None:
    build, options = _target(file)
    loss = build(LABELS, True, **options)
    logits = torch.zeros(2, 2, 8, 8, requires_grad=True)
    value = loss(logits, torch.zeros(2, 1, 8, 8, dtype=torch.int16))
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()
