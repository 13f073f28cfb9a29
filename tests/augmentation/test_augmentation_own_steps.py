"""A step of a user's own, and each way in which one can break its contract."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
import torch

from segflow.augmentation.batch_augmentation import Augmentation, BatchAugmentation
from segflow.augmentation.draws import uniform
from segflow.augmentation.intensity import Brightness, Gamma, Noise
from segflow.augmentation.one_of import OneOf
from segflow.augmentation.orientation import MirrorSettings
from segflow.augmentation.spatial import SpatialSettings
from segflow.augmentation.step import ChannelStep, Step
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels

PATCH = (8, 10, 12)
STILL = {
    "spatial": SpatialSettings(rotation_probability=0.0, scaling_probability=0.0),
    "mirror": MirrorSettings(axes=[]),
}


@dataclass(kw_only=True)
class Slices(ChannelStep):
    """Brightens slices, each by an amount of its own.

    Args:
        amount: Range of what is added.
    """

    amount: tuple[float, float] = (1.0, 2.0)

    def choose(self, shape, generator):
        return {"amount": uniform((*shape, self.patch_size[0]), self.amount, generator)}

    def change(self, values, choices):
        return values + choices["amount"].to(values.device).view(-1, *[1] * (values.ndim - 1))


def augmentation(steps, patch=PATCH) -> BatchAugmentation:
    """With these steps and nothing else."""
    return Augmentation(steps=steps, **STILL)(
        patch,
        labels=Labels({"background": 0, "a": 1}),
        use_mask_for_norm=[False, False],
        previous_stage=False,
    )


def augment(steps, seed=0, patch=PATCH):
    image = torch.randn((6, 2, *patch), generator=torch.Generator().manual_seed(1))
    label = torch.zeros((6, 1, *patch), dtype=torch.int16)
    transform = augmentation(steps, patch)
    draws = transform.draw(6, 2, torch.Generator().manual_seed(seed))
    return image, transform.apply(image, label, draws)[0], draws


@pytest.mark.parametrize("patch", [PATCH, (10, 12)])
def test_it_draws_for_samples_and_channels_and_changes_what_was_chosen(patch):
    before, after, draws = augment({"slices": Slices(probability=0.5, channel_probability=0.5)}, patch=patch)
    chosen = draws["steps/slices/selected"]
    assert 0 < chosen.sum() < chosen.numel()
    expected = before.clone()
    amount = draws["steps/slices/amount"].view(6, 2, -1, *[1] * (len(patch) - 1))
    expected[chosen] += amount.expand(before.shape)[chosen]
    assert torch.equal(after, expected)


def test_it_has_its_place_among_the_others_and_moves_none_of_their_draws_before_it():
    ours = {"noise": Noise(probability=0.5), "gamma": Gamma(probability=0.5)}
    _, plain, first = augment(ours)
    before, after, draws = augment({**ours, "slices": Slices(probability=0.0)})
    assert torch.equal(plain, after)
    assert all(torch.equal(values, draws[name]) for name, values in first.items())
    by_hand = before.clone()
    for name, step in ours.items():
        start = f"steps/{name}/"
        step.bind(PATCH, False).apply(by_hand, {k.removeprefix(start): v for k, v in draws.items() if start in k})
    assert torch.equal(by_hand, after)


def test_one_that_is_switched_off_is_as_if_it_were_not_there():
    _, expected, _ = augment({"gamma": Gamma(probability=0.5)})
    _, found, draws = augment({"noise": None, "gamma": Gamma(probability=0.5)})
    assert torch.equal(expected, found)
    assert not any("noise" in name for name in draws)
    one, several = Brightness(probability=0.5), OneOf(steps={"noise": None, "brightness": Brightness(probability=0.5)})
    assert torch.equal(augment({"brightness": one})[1], augment({"brightness": several})[1])


def test_a_step_is_not_changed_by_being_bound():
    step = Slices(probability=1.0)
    large, small = augmentation({"a": step, "b": step}), augmentation({"a": step}, (4, 6))
    assert step.patch_size == ()
    assert large.steps["a"].patch_size == PATCH
    assert small.steps["a"].patch_size == (4, 6)
    assert pickle.loads(pickle.dumps(large)).steps["b"].patch_size == PATCH


class NoStep:
    pass


class Idle(ChannelStep):
    pass


class Undrawn(Step):
    def apply(self, image, draws):
        pass


class FalseStart(ChannelStep):
    def choose(self, shape, generator):
        return {"amount": torch.rand(shape[0], generator=generator)}

    def change(self, values, choices):
        return values


class Crash(FalseStart):
    def choose(self, shape, generator):
        return {"amount": torch.rand(shape) / self.absent}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (["noise", "blur"], r"augmentation.steps must be a mapping"),
        ({"mine": {"probability": 1.0}}, r"augmentation.steps.mine has no _target_"),
        ({"noise": Noise(), "nois": {"sigma": 1}}, r"Did you mean augmentation.steps.noise\?"),
        ({"mine": NoStep()}, r"augmentation.steps.mine is no step; found .*NoStep"),
        ({"mine": Idle()}, r"augmentation.steps.mine changes nothing; found .*Idle has no change"),
        ({"mine": Undrawn()}, r"augmentation.steps.mine cannot draw; found .*Undrawn has no draw"),
        ({"mine": FalseStart()}, r"augmentation.steps.mine draws 'amount' of the wrong shape .* found \[2\]"),
        ({"mine": Crash()}, r"augmentation.steps.mine cannot draw; found .*Crash: AttributeError: .*absent"),
        ({"mine": OneOf(steps={"a": Idle()})}, r"augmentation.steps.mine.steps.a changes nothing"),
    ],
)
def test_what_breaks_the_contract_is_named_with_it_before_any_batch(steps, said):
    with pytest.raises(SegflowError, match=rf"(?s){said}.*") as caught:
        augmentation(steps)
    assert "ChannelStep" in str(caught.value)


class Returns(ChannelStep):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def change(self, values, choices):
        return self.make(values)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda values: None, "it returned NoneType"),
        (lambda values: values[1:], r"it returned torch.float32 \[7, 10, 12\] for torch.float32 \[8, 10, 12\]"),
        (lambda values: values.double(), r"it returned torch.float64"),
        (lambda values: values / 0, r"augmentation.steps.mine makes values that are no numbers"),
        (lambda values: values.fill_(float("nan")), r"augmentation.steps.mine makes values that are no numbers"),
    ],
)
def test_what_makes_no_image_is_named_with_the_contract_at_the_first_batch(make, said):
    with pytest.raises(SegflowError, match=said) as caught:
        augment({"mine": Returns(make)})
    assert "ChannelStep" in str(caught.value)


def test_an_image_that_is_broken_already_is_not_laid_at_a_steps_door():
    transform = augmentation({"brightness": Brightness()})
    image = torch.full((1, 2, *PATCH), float("nan"))
    assert transform(image, torch.zeros((1, 1, *PATCH), dtype=torch.int16), torch.Generator())[0].isnan().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"probability": "often"}, r"Slices.probability has the wrong type; found often"),
        ({"amount": [1.0]}, r"Slices.amount has the wrong type; found \[1.0\]"),
        ({"amount": 3}, r"Slices.amount has the wrong type"),
        ({"probability": 1.5}, r"Slices.probability must lie between 0 and 1"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(options, said):
    with pytest.raises(SegflowError, match=said):
        Slices(**options)
    assert Slices(amount=[1, 2]).amount == (1.0, 2.0)


class Undecorated(ChannelStep):
    strength: float = 0.1


def test_a_class_that_forgets_to_be_a_dataclass_is_told():
    with pytest.raises(SegflowError, match=r"Undecorated with strength.*@dataclass\(kw_only=True\)"):
        Undecorated(strength=0.2)


def test_nothing_to_choose_from_is_refused():
    with pytest.raises(SegflowError, match="has no step to draw"):
        OneOf(steps={"noise": None})
