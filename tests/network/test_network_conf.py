"""Every shipped option of the network and loss groups names something that can be built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from segflow.apps import _edge
from segflow.core.labels import Labels
from segflow.core.topology import NetworkTopology

CONF = Path(__file__).resolve().parents[2] / "conf"
PLAN = NetworkTopology("plain_unet", (4, 8), ((3, 3), (3, 3)), ((1, 1), (2, 2)), (1, 1), (1,))
LABELS = Labels.from_json({"background": 0, "a": 1})


def _options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("option", _options("network"))
def test_network(option: str) -> None:
    build = _edge.compose("train", f"network={option}").network.build()
    network = build(PLAN, 1, LABELS.num_outputs, True)
    assert network(torch.zeros(2, 1, 8, 8))[0].shape == (2, 2, 8, 8)


@pytest.mark.parametrize("option", _options("loss"))
def test_loss(option: str) -> None:
    terms = ("+loss.terms.a.loss={_target_: segflow.loss.compound.DiceCrossEntropy, _partial_: true}",)
    build = _edge.compose("train", f"loss={option}", *(terms if option == "blend" else ())).loss.build()
    loss = build(LABELS, True)
    logits = torch.zeros(2, 2, 8, 8, requires_grad=True)
    distances = torch.ones(2, 1, 8, 8)
    needs = getattr(loss, "distance_unit", None) is not None
    value = loss(logits, torch.zeros(2, 1, 8, 8, dtype=torch.int16), *((distances,) if needs else ()))
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()
