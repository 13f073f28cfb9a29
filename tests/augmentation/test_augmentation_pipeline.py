"""The whole augmentation: shapes, types, determinism, masks, cascade, and every shipped configuration."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from segflow.augmentation.pipeline import Augmentation, AugmentationSettings, ValidationTransform
from segflow.augmentation.spatial import SpatialSettings
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels

CONF = Path(__file__).resolve().parents[2] / "conf" / "augmentation"
LABELS = Labels({"background": 0, "a": 1, "b": 2, "ignore": 3})
PATCHES = [(16, 20, 18), (6, 24, 32), (32, 28)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(patch, settings=None, mask=(False, False), previous_stage=False, **options):
    return Augmentation(
        patch,
        settings or AugmentationSettings(),
        labels=LABELS,
        use_mask_for_norm=mask,
        previous_stage=previous_stage,
        **options,
    )


def batch(augmentation, samples=4, channels=2, previous_stage=False):
    shape = augmentation.loader_patch_size
    image = torch.randn((samples, channels, *shape), generator=generator(1))
    coarse = torch.randint(-1, 4, (samples, 2 if previous_stage else 1, *(n // 5 + 1 for n in shape)))
    return image, functional.interpolate(coarse.float(), shape).to(torch.int16)


def busy():
    """nnU-Net's settings with everything certain to happen."""
    settings = AugmentationSettings(spatial=SpatialSettings(rotation_probability=1.0, scaling_probability=1.0))
    for name in settings.steps:
        getattr(settings, name).probability = 1.0
    return settings


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("previous_stage", [False, True])
@pytest.mark.parametrize("settings", [AugmentationSettings, busy])
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
    augmentation = make(patch, AugmentationSettings(spatial=SpatialSettings(rotation_probability=0.5)))
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
    settings.noise.sigma = (0.1, 0.1)
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
    settings = AugmentationSettings(steps=["brightness|brightness_shift"])
    settings.brightness.probability = settings.brightness_shift.probability = 1.0
    settings.brightness_shift.channel_probability = 1.0
    draws = make((16, 20, 18), settings).draw(10_000, 2, generator())
    first, second = draws["0.0/selected"].all(1), draws["0.1/selected"].all(1)
    assert torch.equal(first, ~second)
    assert abs(first.float().mean() - 0.5) < 0.02


def test_a_step_may_come_twice_with_draws_of_its_own():
    settings = AugmentationSettings(steps=["gamma_inverted", "gamma_inverted"])
    draws = make((16, 20, 18), settings).draw(10_000, 1, generator())
    assert abs(draws["0.0/selected"].float().mean() - 0.1) < 0.012
    assert not torch.equal(draws["0.0/selected"], draws["1.0/selected"])


class AddOne:
    """A step of a user's own."""

    def draw(self, samples, channels, generator):
        return {"selected": torch.ones((samples, channels), dtype=torch.bool)}

    def apply(self, image, draws):
        image[draws["selected"]] += 1


def test_a_step_of_ones_own_comes_after_the_others():
    image, label = batch(make((16, 20, 18)))
    plain = make((16, 20, 18))(image, label, generator())[0]
    assert torch.allclose(make((16, 20, 18), extra_steps=[AddOne()])(image, label, generator())[0], plain + 1)


def test_unknown_steps_and_wrong_patches_are_refused():
    with pytest.raises(SegflowError, match=r"unknown steps.*nois.*expected.*noise"):
        AugmentationSettings(steps=["nois"])
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


def compose(name):
    """The settings of a shipped configuration, the way the commands read it."""
    hydra = pytest.importorskip("hydra")
    omegaconf = pytest.importorskip("omegaconf")
    with hydra.initialize_config_dir(str(CONF.parent), version_base="1.3"):
        node = hydra.compose(overrides=[f"+augmentation={name}"]).augmentation
    schema = omegaconf.OmegaConf.structured(AugmentationSettings)
    return omegaconf.OmegaConf.to_object(omegaconf.OmegaConf.merge(schema, node))


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
@pytest.mark.parametrize("patch", PATCHES)
def test_every_shipped_configuration_composes_and_runs(name, patch):
    augmentation = make(patch, compose(name), previous_stage=True)
    image, label = batch(augmentation, samples=2, previous_stage=True)
    out, out_label = augmentation(image, label, generator())
    assert out.shape == (2, 4, *patch)
    assert torch.isfinite(out).all()
    assert set(out_label.unique().tolist()) <= {0, 1, 2, 3}


def test_the_file_of_nnunet_says_what_the_code_defaults_to():
    assert compose("nnunet") == AugmentationSettings()


def test_none_changes_nothing():
    augmentation = make((16, 20, 18), compose("none"))
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
    assert make((16, 20, 18), compose(name)).mirror_axes == in_3d
    assert make((32, 28), compose(name)).mirror_axes == in_2d


def test_da5_loads_more_and_turns_by_quarters():
    augmentation = make((64, 64, 64), compose("nnunet_da5"))
    assert augmentation.loader_patch_size == (124, 124, 124)
    draws = augmentation.draw(10_000, 1, generator())
    assert abs((draws["spatial/angles"] != 0).float().mean() - 0.2) < 0.01
    assert abs((draws["spatial/turns"] != 0).float().mean() - 0.375) < 0.02
    for which, probability in (("0.0", 0.05), ("0.1", 0.05), ("1.0", 0.1), ("3.0", 0.05), ("3.1", 0.05)):
        assert abs(draws[f"{which}/selected"].float().mean() - probability) < 0.012


def test_label_order_0_takes_the_nearest_label():
    settings = compose("label_order0")
    assert settings.spatial.label_interpolation == "nearest"
    assert settings.spatial.image_interpolation == "linear"
    assert compose("no_dummy_2d").spatial.dummy_2d is False
    assert make((6, 24, 32), compose("no_dummy_2d")).spatial.rotation_degrees == 30
