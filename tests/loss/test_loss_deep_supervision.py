"""The loss over several resolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.topology import NetworkTopology
from segflow.loss.compound import DiceCrossEntropy
from segflow.loss.deep_supervision import DeepSupervisionLoss, downsample, supervision_weights
from segflow.network.build import build_network

LABELS = Labels.from_json({"background": 0, "a": 1, "b": 2})


def test_conformance_b8() -> None:
    assert supervision_weights(5) == pytest.approx((8 / 15, 4 / 15, 2 / 15, 1 / 15, 0))
    assert supervision_weights(3) == pytest.approx((2 / 3, 1 / 3, 0))
    assert supervision_weights(2) == (1, 0)
    assert supervision_weights(1) == (1,)


class _First(nn.Module):
    """The loss is whatever the first logit says."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert logits.shape[2:] == target.shape[2:]
        return logits.flatten()[0]


def _logits(*values: float) -> list[torch.Tensor]:
    return [torch.full((1, 2, 16 // 2**level, 16 // 2**level), value) for level, value in enumerate(values)]


def test_leaving_out_the_coarsest_logits_changes_nothing() -> None:
    loss = DeepSupervisionLoss(_First(), [(1, 1), (2, 2), (2, 2), (2, 2)])
    target = torch.zeros(1, 1, 16, 16, dtype=torch.int16)
    assert loss(_logits(3.0, 6.0, 100.0), target).item() == pytest.approx(4.0)
    assert loss(_logits(3.0, 6.0), target).item() == pytest.approx(4.0)


def test_a_single_output_has_the_weight_one() -> None:
    target = torch.zeros(1, 1, 16, 16, dtype=torch.int16)
    for strides in ([(1, 1)], [(1, 1), (2, 2)], [(1, 1), (2, 2), (2, 2), (2, 2)]):
        loss = DeepSupervisionLoss(_First(), strides)
        assert loss(_logits(3.0), target).item() == pytest.approx(3.0)


@pytest.mark.parametrize("count", [0, 4])
def test_a_list_that_does_not_fit_the_plan_is_refused(count: int) -> None:
    loss = DeepSupervisionLoss(_First(), [(1, 1), (2, 2), (2, 2), (2, 2)])
    with pytest.raises(SegflowError, match="1 to 3"):
        loss(_logits(*range(count)), torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("shape", [(12, 8, 10), (6, 8, 5), (3, 4, 5), (5, 3, 10), (4, 8, 1)])
def test_label_maps_are_reduced_to_the_nearest_voxel(shape: tuple[int, ...]) -> None:
    target = torch.randint(0, 9, (2, 1, 12, 8, 10), generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(target.double(), size=shape, mode="nearest-exact").long()
    assert torch.equal(downsample(target, shape), expected)


@pytest.mark.parametrize("levels", [2, 4])
def test_a_step_with_a_real_network_reaches_every_trained_weight(levels: int) -> None:
    kernels, strides = ((3, 3),) * levels, ((1, 1), *((2, 2),) * (levels - 1))
    plan = NetworkTopology("plain_unet", (4,) * levels, kernels, strides, (1,) * levels, (1,) * (levels - 1))
    network = build_network(plan, 1, LABELS.num_outputs)
    loss = DeepSupervisionLoss(DiceCrossEntropy(LABELS, True), strides)
    target = torch.randint(0, 3, (2, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    value = loss(network(torch.randn(2, 1, 16, 16)), target)
    value.backward()
    assert torch.isfinite(value)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name
        else:
            assert parameter.grad is None, name
