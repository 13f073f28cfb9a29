"""Blends of losses: weights over a training, terms at the resolutions where they act, and what is refused."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from loss_cases import REGIONS_IGNORE, THREE, example
from torch import nn

from segflow.core.errors import SegflowError
from segflow.loss.blend import Blend
from segflow.loss.cl_dice import ClDice
from segflow.loss.compound import DiceCrossEntropy
from segflow.loss.deep_supervision import DeepSupervisionLoss
from segflow.loss.distance_maps import DistanceMaps
from segflow.loss.focal import Focal
from segflow.loss.surface_losses import Boundary, Hausdorff
from segflow.loss.term_weight import TermWeight

STRIDES = [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]


def levels(logits: torch.Tensor) -> list[torch.Tensor]:
    """Logits of the three resolutions of a decoder."""
    return [logits, logits[..., ::2, ::2, ::2], logits[..., ::4, ::4, ::4]]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (0.5, [0.5] * 5),
        ({"start": 2, "curve": "constant", "end": 7}, [2] * 5),
        ({"start": 0.0, "end": 1.0}, [0, 0.25, 0.5, 0.75, 1]),
        ({"start": 1.0, "end": 0.2, "from_share": 0.25, "to_share": 0.75}, [1, 1, 0.6, 0.2, 0.2]),
        (
            {"start": 0.0, "end": 1.0, "curve": "cosine"},
            [0, (1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2, 1],
        ),
        ({"start": 0.0, "end": 1.0, "from_share": 0.5, "to_share": 0.5}, [0, 0, 1, 1, 1]),
    ],
)
def test_weights_follow_the_share_of_the_training(setting: Any, expected: list[float]) -> None:
    weight = TermWeight.of("a", setting)
    assert [weight.at(share) for share in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(expected)


def test_a_blend_is_the_weighted_sum_of_its_terms() -> None:
    logits, target = example(REGIONS_IGNORE)
    terms = {
        "dice_ce": {"loss": DiceCrossEntropy},
        "focal": {"loss": partial(Focal, gamma=1.0), "weight": {"start": 0.0, "end": 1.0}},
        "off": None,
    }
    blend = Blend(REGIONS_IGNORE, True, terms=terms)
    parts = [
        DiceCrossEntropy(REGIONS_IGNORE, True)(logits, target),
        Focal(REGIONS_IGNORE, gamma=1.0)(logits, target),
    ]
    assert blend(logits, target) == parts[0]
    assert list(blend.last) == ["dice_ce"]
    blend.share = 0.25
    assert blend(logits, target).item() == pytest.approx((parts[0] + 0.25 * parts[1]).item())
    assert {name: value.item() for name, value in blend.last.items()} == pytest.approx(
        {"dice_ce": parts[0].item(), "focal": parts[1].item()}
    )


def test_a_term_for_the_finest_resolution_keeps_its_whole_weight_there() -> None:
    logits, target = example(THREE, 8, 8, 8)
    maps = DistanceMaps(THREE)(target)
    terms: dict[str, Any] = {
        "dice_ce": {"loss": DiceCrossEntropy},
        "boundary": {"loss": Boundary, "weight": 0.5},
        "cldice": {"loss": ClDice, "weight": 0.25},
    }
    whole = DeepSupervisionLoss(Blend(THREE, True, terms=terms), STRIDES)(levels(logits), target, maps)
    region = DeepSupervisionLoss(DiceCrossEntropy(THREE, True), STRIDES)(levels(logits), target)
    finest = 0.5 * Boundary(THREE, True)(logits, target, maps) + 0.25 * ClDice(THREE, True)(logits, target)
    assert whole.item() == pytest.approx((region + finest).item())
    alone = DeepSupervisionLoss(Boundary(THREE, True), STRIDES)(levels(logits), target, maps)
    assert alone == Boundary(THREE, True)(logits, target, maps)


class Weighted(nn.Module):
    """A loss of a user's own that asks for distance maps, at all resolutions."""

    distance_unit = "mm"

    def __init__(self, labels: Any, batch_dice: bool, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, logits: torch.Tensor, target: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        assert distances.shape[2:] == logits.shape[2:] == target.shape[2:]
        return (logits[:, 1:].sigmoid() * distances.abs() ** self.power).mean()


def test_a_loss_of_a_users_own_gets_distances_and_blends_with_ours() -> None:
    logits, target = example(THREE, 8, 8, 8)
    maps = DistanceMaps(THREE, (3.0, 1.0, 1.0))(target)
    blend = Blend(THREE, True, terms={"mine": {"loss": partial(Weighted, power=2.0)}, "ce": {"loss": DiceCrossEntropy}})
    assert blend.distance_unit == "mm"
    value = DeepSupervisionLoss(blend, STRIDES)(levels(logits), target, maps)
    alone = DeepSupervisionLoss(Weighted(THREE, True, 2.0), STRIDES)(levels(logits), target, maps)
    assert value.item() == pytest.approx((alone + blend.last["ce"]).item())


def test_all_weights_may_be_zero_for_a_while() -> None:
    logits, target = example(THREE, 8, 8, 8)
    late = {"focal": {"loss": Focal, "weight": {"start": 0, "end": 1, "from_share": 0.5}}}
    blend = Blend(THREE, True, terms=late)
    logits.requires_grad_()
    value = DeepSupervisionLoss(blend, STRIDES)(levels(logits), target)
    assert value == 0 == blend(logits, target)
    assert torch.autograd.grad(value, logits)[0].abs().max() == 0


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (None, "at least one term"),
        ({"a": None}, "at least one term"),
        ({"a": Focal}, "'a' is no term"),
        ({"a": {"weight": 1.0}}, "'a' is no term"),
        ({"a": {"loss": Focal, "wieght": 1.0}}, "'a' is no term"),
        ({"a.b": {"loss": Focal}}, "'a.b' is no term"),
        ({"a": {"loss": "focal"}}, "no loss"),
        ({"a": {"loss": lambda labels, batch_dice: 3}}, "gives no module"),
        ({"a": {"loss": partial(Blend, terms={"b": {"loss": Focal}})}}, "List its terms"),
        ({"a": {"loss": Focal, "weight": "much"}}, "no number and no schedule"),
        ({"a": {"loss": Focal, "weight": True}}, "no number and no schedule"),
        ({"a": {"loss": Focal, "weight": {"end": 1.0}}}, "no number and no schedule"),
        ({"a": {"loss": Focal, "weight": {"start": 0, "until": 1.0}}}, "from_share, to_share"),
        ({"a": {"loss": Focal, "weight": -1.0}}, r"from 0 on; found \{'start': -1.0\}"),
        ({"a": {"loss": Focal, "weight": math.nan}}, "from 0 on"),
        ({"a": {"loss": Focal, "weight": {"start": 0, "end": "1"}}}, "from 0 on"),
        ({"a": {"loss": Focal, "weight": {"start": 0, "curve": "steps"}}}, "linear, cosine"),
        ({"a": {"loss": Focal, "weight": {"start": 0, "from_share": 0.6, "to_share": 0.5}}}, "must rise"),
        ({"a": {"loss": Focal, "weight": {"start": 0, "to_share": 1.5}}}, "must rise"),
        ({"a": {"loss": Boundary}, "b": {"loss": partial(Hausdorff, distance_unit="mm")}}, "one unit"),
    ],
)
def test_what_is_no_blend_is_refused(terms: Any, said: str) -> None:
    with pytest.raises(SegflowError, match=said):
        Blend(THREE, True, terms=terms)


def test_a_loss_without_the_maps_that_it_needs_says_so() -> None:
    with pytest.raises(SegflowError, match="Boundary needs distance maps"):
        DeepSupervisionLoss(Boundary(THREE, True), STRIDES)(
            levels(example(THREE, 8, 8, 8)[0]), example(THREE, 8, 8, 8)[1]
        )
