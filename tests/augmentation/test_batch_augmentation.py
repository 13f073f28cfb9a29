"""The whole augmentation: shapes, types, determinism, masks, cascade, and every shipped configuration."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import shipped_parts
import torch
from torch.nn import functional

from segflow.augmentation.batch_augmentation import Augmentation
from segflow.augmentation.intensity import Brightness, BrightnessShift, Gamma
from segflow.augmentation.one_of import OneOf
from segflow.augmentation.step import Step
from segflow.augmentation.validation_transform import ValidationTransform
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels

CONF = Path(__file__).resolve().parents[2] / "conf" / "augmentation"
LABELS = Labels({"background": 0, "a": 1, "b": 2, "ignore": 3})
PATCHES = [(16, 20, 18), (6, 24, 32), (32, 28)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(patch, settings=None, mask=(False, False), previous_stage=False, **options):
    settings = settings or shipped_parts.augmentation()
    return settings(patch, labels=LABELS, use_mask_for_norm=mask, previous_stage=previous_stage, **options)


def batch(augmentation, samples=4, channels=2, previous_stage=False):
    shape = augmentation.loader_patch_size
    image = torch.randn((samples, channels, *shape), generator=generator(1))
    coarse = torch.randint(-1, 4, (samples, 2 if previous_stage else 1, *(n // 5 + 1 for n in shape)))
    return image, functional.interpolate(coarse.float(), shape).to(torch.int16)


def busy():
    """nnU-Net's settings with everything certain to happen."""
    settings = shipped_parts.augmentation()
    settings.spatial.rotation_probability = settings.spatial.scaling_probability = 1.0
    for step in settings.steps.values():
        step.probability = 1.0
    return settings


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("previous_stage", [False, True])
@pytest.mark.parametrize("settings", [shipped_parts.augmentation, busy])
def test_shapes_types_and_values(patch, previous_stage, settings):
    augmentation = make(patch, settings(), previous_stage=previous_stage)
    image, label = batch(augmentation, previous_stage=previous_stage)
    before = image.clone(), label.clone()
    out, out_label = augmentation(image, label, generator())
    assert out.shape == (4, 4 if previous_stage else 2, *patch)
    assert out_label.shape == (4, 1, *patch)
    assert (out.dtype, out_label.dtype) == (torch.float32, torch.int16)
    assert torch.isfinite(out).all()
    assert out_label.is_contiguous()
    assert set(out_label.unique().tolist()) <= {0, 1, 2, 3}
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


@pytest.mark.parametrize("patch", PATCHES)
def test_the_same_generator_seed_gives_the_same_batch_and_another_another(patch):
    augmentation = make(patch, busy(), previous_stage=True)
    image, label = batch(augmentation, previous_stage=True)
    first, second, third = (augmentation(image, label, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], third[0])


@pytest.mark.parametrize("state", [0, 1])
def test_the_global_random_state_is_neither_used_nor_moved(state):
    augmentation = make((16, 20, 18), busy())
    image, label = batch(augmentation)
    expected = augmentation(image, label, generator())[0]
    torch.manual_seed(state)
    before = torch.get_rng_state()
    assert torch.equal(augmentation(image, label, generator())[0], expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_share_of_the_draws_gives_that_share_of_the_batch():
    augmentation = make((16, 20, 18), busy(), previous_stage=True)
    image, label = batch(augmentation, previous_stage=True)
    draws = augmentation.draw(4, 2, generator())
    whole = augmentation.apply(image, label, draws)
    for part in (slice(0, 1), slice(1, 4)):
        some = augmentation.apply(image[part], label[part], {name: v[part] for name, v in draws.items()})
        assert torch.equal(some[0], whole[0][part])
        assert torch.equal(some[1], whole[1][part])


def test_it_travels_to_spawned_workers():
    augmentation = make((16, 20, 18), busy(), previous_stage=True)
    image, label = batch(augmentation, previous_stage=True)
    copy = pickle.loads(pickle.dumps(augmentation))
    assert torch.equal(copy(image, label, generator())[0], augmentation(image, label, generator())[0])


def test_draws_do_not_depend_on_the_voxels():
    augmentation = make((16, 20, 18))
    first, second = augmentation.draw(4, 2, generator()), augmentation.draw(4, 2, generator())
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("patch", PATCHES)
def test_only_the_regions_need_to_be_read(patch):
    augmentation = make(patch, shipped_parts.augmentation("nnunet", "spatial.rotation_probability=0.5"))
    image, label = batch(augmentation, samples=8)
    draws = augmentation.draw(8, 2, generator())
    expected = augmentation.apply(image, label, draws)
    spoilt, spoilt_label = torch.full_like(image, float("nan")), torch.full_like(label, 99)
    for sample, box in enumerate(augmentation.regions(draws)):
        at = (sample, slice(None), *box.slices)
        spoilt[at], spoilt_label[at] = image[at], label[at]
    got = augmentation.apply(spoilt, spoilt_label, draws)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("transform", ["augmentation", "validation"])
def test_channels_with_the_mask_are_zero_outside_of_it(transform):
    settings = busy()
    settings.steps["noise"].sigma = (0.1, 0.1)
    augmentation = make((16, 20, 18), settings, mask=(False, True))
    image, label = batch(augmentation)
    if transform == "validation":
        assert (ValidationTransform((16, 20, 18), labels=LABELS, previous_stage=False)(image, label)[1] >= 0).all()
        return
    draws = augmentation.draw(4, 2, generator())
    out, _ = augmentation.apply(image, label, draws)
    unmasked, _ = make((16, 20, 18), settings).apply(image, label, draws)
    outside_label = torch.empty((4, 1, 16, 20, 18), dtype=torch.int16)
    spatial = {name.split("/")[1]: values for name, values in draws.items() if name.startswith("spatial/")}
    augmentation.spatial.apply(image, label, spatial, torch.empty_like(out), outside_label)
    outside = outside_label[:, 0] < 0
    assert outside.any()
    assert (out[:, 1][outside] == 0).all()
    assert torch.equal(out[:, 1][~outside], unmasked[:, 1][~outside])
    assert torch.equal(out[:, 0], unmasked[:, 0])


def test_previous_labels_follow_the_label_through_the_spatial_part():
    settings = busy()
    settings.cascade.morphology_probability = settings.cascade.removal_probability = 0.0
    augmentation = make((16, 20, 18), settings, previous_stage=True)
    image, label = batch(augmentation, previous_stage=True)
    label[:, 1] = label[:, 0]
    out, out_label = augmentation(image, label, generator())
    for channel, value in enumerate((1, 2)):
        assert torch.equal(out[:, 2 + channel], (out_label[:, 0] == value).float())


def test_one_of_several_steps_is_chosen_for_each_sample():
    steps = {"either": OneOf(steps={"brightness": Brightness(), "brightness_shift": BrightnessShift()})}
    draws = make((16, 20, 18), Augmentation(steps=steps)).draw(10_000, 2, generator())
    first, second = (draws[f"steps/either/{name}/selected"].all(1) for name in ("brightness", "brightness_shift"))
    assert torch.equal(first, ~second)
    assert abs(first.float().mean() - 0.5) < 0.02


def test_a_step_may_come_twice_with_draws_of_its_own():
    inverted = Gamma(probability=0.1, inverted=True)
    draws = make((16, 20, 18), Augmentation(steps={"first": inverted, "again": inverted})).draw(10_000, 1, generator())
    assert abs(draws["steps/first/selected"].float().mean() - 0.1) < 0.012
    assert not torch.equal(draws["steps/first/selected"], draws["steps/again/selected"])


class AddOne(Step):
    """A step of a user's own."""

    def draw(self, samples, channels, generator):
        return {"selected": torch.ones((samples, channels), dtype=torch.bool)}

    def apply(self, image, draws):
        image[draws["selected"]] += 1


def test_a_step_of_ones_own_comes_after_the_others():
    image, label = batch(make((16, 20, 18)))
    plain = make((16, 20, 18))(image, label, generator())[0]
    settings = shipped_parts.augmentation()
    settings.steps["mine"] = AddOne()
    assert torch.allclose(make((16, 20, 18), settings)(image, label, generator())[0], plain + 1)


def test_unknown_steps_and_wrong_patches_are_refused():
    with pytest.raises(SegflowError, match=r"augmentation.steps must be a mapping.*noise.*expected.*ChannelStep"):
        Augmentation(steps=["noise"])
    with pytest.raises(SegflowError, match="another size"):
        make((16, 20, 18))(torch.zeros(1, 1, 16, 20, 18), torch.zeros(1, 1, 16, 20, 18), generator())


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("previous_stage", [False, True])
def test_validation_takes_the_centre_and_changes_nothing_else(patch, previous_stage):
    transform = ValidationTransform(patch, labels=LABELS, previous_stage=previous_stage)
    larger = make(patch)
    image, label = batch(larger, previous_stage=previous_stage)
    out, out_label = transform(image, label, generator())
    centre = (..., *(slice(s // 2 - p // 2, s // 2 - p // 2 + p) for s, p in zip(image.shape[2:], patch, strict=True)))
    assert torch.equal(out[:, :2], image[centre])
    assert torch.equal(out_label, label[centre][:, :1].clamp(min=0))
    if previous_stage:
        assert torch.equal(out[:, 2:], torch.stack([label[centre][:, 1] == v for v in (1, 2)], 1).float())
    else:
        assert out.shape[1] == 2


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
@pytest.mark.parametrize("patch", PATCHES)
def test_every_shipped_configuration_composes_and_runs(name, patch):
    augmentation = make(patch, shipped_parts.augmentation(name), previous_stage=True)
    image, label = batch(augmentation, samples=2, previous_stage=True)
    out, out_label = augmentation(image, label, generator())
    assert out.shape == (2, 4, *patch)
    assert torch.isfinite(out).all()
    assert set(out_label.unique().tolist()) <= {0, 1, 2, 3}


def test_none_changes_nothing():
    augmentation = make((16, 20, 18), shipped_parts.augmentation("none"))
    assert augmentation.loader_patch_size == (16, 20, 18)
    assert augmentation.mirror_axes == ()
    image, label = batch(augmentation)
    out, out_label = augmentation(image, label, generator())
    assert torch.equal(out, image)
    assert torch.equal(out_label, label.clamp(min=0))


@pytest.mark.parametrize(
    ("name", "in_3d", "in_2d"),
    [
        ("nnunet", (0, 1, 2), (0, 1)),
        ("no_mirroring", (), ()),
        ("only_mirror01", (0, 1), (0,)),
        ("only_mirror01_da5", (0, 1), (0,)),
        ("label_order0_no_mirroring", (), ()),
    ],
)
def test_mirror_axes_of_the_variants(name, in_3d, in_2d):
    assert make((16, 20, 18), shipped_parts.augmentation(name)).mirror_axes == in_3d
    assert make((32, 28), shipped_parts.augmentation(name)).mirror_axes == in_2d


def test_da5_loads_more_and_turns_by_quarters():
    augmentation = make((64, 64, 64), shipped_parts.augmentation("nnunet_da5"))
    assert augmentation.loader_patch_size == (124, 124, 124)
    draws = augmentation.draw(10_000, 1, generator())
    assert abs((draws["spatial/angles"] != 0).float().mean() - 0.2) < 0.01
    assert abs((draws["spatial/turns"] != 0).float().mean() - 0.375) < 0.02
    for which, probability in (
        ("median_or_blur/median", 0.05),
        ("median_or_blur/blur", 0.05),
        ("noise", 0.1),
        ("contrast/kept", 0.05),
        ("contrast/free", 0.05),
    ):
        assert abs(draws[f"steps/{which}/selected"].float().mean() - probability) < 0.012


def test_label_order_0_takes_the_nearest_label():
    settings = shipped_parts.augmentation("label_order0")
    assert settings.spatial.label_interpolation == "nearest"
    assert settings.spatial.image_interpolation == "linear"
    assert shipped_parts.augmentation("no_dummy_2d").spatial.dummy_2d is False
    assert make((6, 24, 32), shipped_parts.augmentation("no_dummy_2d")).spatial.rotation_degrees == 30
