"""Rotation, scaling, crop and orientation: their draws over 10,000 samples and what they do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from segflow.augmentation.orientation import MirrorSettings, Orientation, TurnSettings, has_sides
from segflow.augmentation.spatial import Spatial, SpatialSettings, rotation_matrix
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels

N = 10_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(patch, spatial=None, mirror_axes=(), mirror=None, turn=None):
    orientation = Orientation(patch, mirror_axes, mirror or MirrorSettings(), turn or TurnSettings())
    return Spatial(patch, spatial or SpatialSettings(), orientation)


def near(share, probability):
    """Within four standard errors."""
    assert abs(float(share) - probability) < 4 * math.sqrt(probability * (1 - probability) / N) + 1e-9


def fills(values, low, high):
    """Uniform within its limits, by mean and extremes."""
    assert values.min() >= low - 1e-6
    assert values.max() <= high + 1e-6
    assert values.min() < low + 0.02 * (high - low)
    assert values.max() > high - 0.02 * (high - low)
    assert abs(float(values.mean()) - (low + high) / 2) < 0.05 * (high - low)


@pytest.mark.parametrize(
    ("patch", "limit", "axes"), [((40, 56, 40), 30, 3), ((64, 64), 180, 1), ((20, 80, 80), 180, 1)]
)
def test_rotation_and_scaling_are_drawn_as_the_recipe_says(patch, limit, axes):
    draws = make(patch).draw(N, generator())
    angles, scales = draws["angles"].rad2deg(), draws["scales"]
    rotated, scaled = (angles != 0).any(1), (scales != 1).any(1)
    near(rotated.float().mean(), 0.2)
    near(scaled.float().mean(), 0.2)
    near((rotated & scaled).float().mean(), 0.04)
    assert torch.equal(draws["resampled"], rotated | scaled)
    assert angles.shape == (N, axes)
    for axis in range(axes):
        fills(angles[rotated, axis], -limit, limit)
    fills(scales[scaled, 0], 0.7, 1.4)
    assert (scales == scales[:, :1]).all()


def test_rotation_about_single_axes_and_scales_of_their_own():
    settings = SpatialSettings(
        rotation_probability=0.4, rotation_axis_probability=0.5, scaling=(0.7, 1.43), scaling_same_for_axes=False
    )
    draws = make((40, 40, 40), settings).draw(N, generator())
    near((draws["angles"] != 0).float().mean(), 0.2)
    near((draws["angles"] != 0).any(1).float().mean(), 0.4 * (1 - 0.5**3))
    scaled = (draws["scales"] != 1).any(1)
    assert (draws["scales"][scaled, 0] != draws["scales"][scaled, 1]).all()


def test_the_matrix_is_the_product_of_the_recipe():
    x, y, z = 0.3, -0.2, 0.5
    rx = [[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]]
    ry = [[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]
    rz = [[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]]
    expected = np.array(rz) @ np.array(ry) @ np.array(rx)
    np.testing.assert_allclose(rotation_matrix(torch.tensor([[x, y, z]], dtype=torch.float64))[0], expected)
    draws = make((8, 8, 8), SpatialSettings(rotation_probability=1, scaling_probability=1)).draw(1, generator())
    product = rotation_matrix(draws["angles"].double())[0] @ torch.diag(draws["scales"][0].double())
    torch.testing.assert_close(draws["matrix"][0], product)


def apply(spatial, draws, image, label):
    out = torch.full((*image.shape[:2], *spatial.patch_size), float("nan"))
    out_label = torch.full((*label.shape[:2], *spatial.patch_size), 77, dtype=torch.int16)
    spatial.apply(image, label, draws, out, out_label)
    return out, out_label


def batch(spatial, samples=2, channels=2, labels=1):
    shape = spatial.loader_patch_size
    image = torch.randn((samples, channels, *shape), generator=generator(1))
    coarse = torch.randn((samples, labels, *(max(1, n // 5) for n in shape)), generator=generator(2))
    return image, functional.interpolate(coarse, shape).round().clamp(-1, 2).to(torch.int16)


@pytest.mark.parametrize("patch", [(12, 15, 10), (12, 17), (4, 16, 20)])
def test_what_neither_rotates_nor_scales_is_the_centre_crop_bit_by_bit(patch):
    spatial = make(patch)
    image, label = batch(spatial)
    draws = spatial.draw(2, generator())
    draws["resampled"][:] = False
    out, out_label = apply(spatial, draws, image, label)
    crop = tuple(slice(s // 2 - p // 2, s // 2 - p // 2 + p) for s, p in zip(image.shape[2:], patch, strict=True))
    assert torch.equal(out, image[(..., *crop)])
    assert torch.equal(out_label, label[(..., *crop)])


def test_dummy_2d_turns_every_slice_alike_and_mixes_none():
    settings = SpatialSettings(rotation_probability=1.0, scaling_probability=1.0)
    spatial = make((4, 16, 20), settings)
    assert spatial.dummy_2d
    image, label = batch(spatial)
    draws = spatial.draw(2, generator())
    out, out_label = apply(spatial, draws, image, label)
    flat = make((16, 20), settings)
    for depth in range(4):
        flat.loader_patch_size = spatial.loader_patch_size[1:]
        flat_draws = {**draws, "flip": draws["flip"][:, 1:], "axes": torch.arange(2).repeat(2, 1)}
        slice_, slice_label = apply(flat, flat_draws, image[:, :, depth], label[:, :, depth])
        assert torch.equal(out[:, :, depth], slice_)
        assert torch.equal(out_label[:, :, depth], slice_label)


def test_image_and_label_move_together():
    spatial = make((20, 24, 22), SpatialSettings(rotation_probability=1.0), (0, 1, 2), MirrorSettings(probability=1.0))
    label = batch(spatial, labels=2)[1]
    label[:] = functional.interpolate(torch.randn((2, 2, 4, 4, 4)), spatial.loader_patch_size, mode="trilinear") > 0
    out, out_label = apply(spatial, spatial.draw(2, generator()), label.float(), label)
    clear = (out - 0.5).abs() > 0.01
    assert torch.equal((out > 0.5)[clear], (out_label > 0)[clear])


@pytest.mark.parametrize("patch", [(12, 15, 10), (12, 17), (4, 16, 20)])
def test_nothing_outside_of_the_regions_is_looked_at(patch):
    spatial = make(patch, SpatialSettings(rotation_probability=0.5), tuple(range(len(patch))))
    image, label = batch(spatial, samples=12)
    draws = spatial.draw(12, generator())
    assert 0 < draws["resampled"].sum() < 12
    expected = apply(spatial, draws, image, label)
    spoilt, spoilt_label = torch.full_like(image, float("nan")), torch.full_like(label, 99)
    for sample, box in enumerate(spatial.regions(draws)):
        at = (sample, slice(None), *box.slices)
        spoilt[at], spoilt_label[at] = image[at], label[at]
    got = apply(spatial, draws, spoilt, spoilt_label)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_a_sample_does_not_depend_on_its_companions():
    spatial = make((12, 15, 10), SpatialSettings(rotation_probability=0.5), (0, 1, 2))
    image, label = batch(spatial, samples=6)
    draws = spatial.draw(6, generator())
    whole = apply(spatial, draws, image, label)
    for sample in range(6):
        one = {name: values[sample : sample + 1] for name, values in draws.items()}
        alone = apply(spatial, one, image[sample : sample + 1], label[sample : sample + 1])
        assert torch.equal(alone[0][0], whole[0][sample])
        assert torch.equal(alone[1][0], whole[1][sample])


def test_each_allowed_axis_is_mirrored_half_of_the_time_and_no_other():
    flip = make((8, 9, 10), mirror_axes=(0, 2)).draw(N, generator())["flip"]
    near(flip[:, 0].float().mean(), 0.5)
    near(flip[:, 2].float().mean(), 0.5)
    near((flip[:, 0] & flip[:, 2]).float().mean(), 0.25)
    assert not flip[:, 1].any()


def oriented(patch, **draws):
    orientation = Orientation(patch, (), MirrorSettings(), TurnSettings())
    dims = len(patch)
    draws = {
        "flip": torch.zeros((1, dims), dtype=torch.bool),
        "turns": torch.zeros(1, dtype=torch.long),
        "turn_axes": torch.zeros((1, 2), dtype=torch.long),
        "axes": torch.arange(dims)[None],
        **{name: torch.tensor([value]) for name, value in draws.items()},
    }
    image = torch.arange(math.prod(patch)).view(1, *patch)
    return image[0].numpy(), orientation.apply(image, draws, 0)[0].numpy()


def test_mirroring_turns_and_exchange_are_those_of_numpy():
    image, out = oriented((3, 4, 5), flip=[True, False, True])
    np.testing.assert_array_equal(out, image[::-1, :, ::-1])
    image, out = oriented((4, 4, 4), turns=3, turn_axes=[0, 2])
    np.testing.assert_array_equal(out, np.rot90(image, 3, (0, 2)))
    image, out = oriented((4, 4, 4), axes=[2, 0, 1])
    np.testing.assert_array_equal(out, image.transpose(2, 0, 1))
    image, out = oriented((4, 4), turns=1, turn_axes=[0, 1], axes=[1, 0], flip=[True, False])
    np.testing.assert_array_equal(out, np.rot90(image, 1).T[::-1])


def test_turns_and_exchange_are_drawn_among_axes_of_equal_length():
    turn = TurnSettings(turn_probability=0.5, exchange_probability=0.5)
    draws = make((8, 8, 5), turn=turn).draw(N, generator())
    counts = torch.bincount(draws["turns"], minlength=4) / N
    near(counts[0], 0.5 + 0.5 / 4)
    for turns in (1, 2, 3):
        near(counts[turns], 0.5 / 4)
    assert draws["turn_axes"].unique(dim=0).tolist() == [[0, 1]]
    near((draws["axes"][:, 0] == 1).float().mean(), 0.25)
    assert (draws["axes"][:, 2] == 2).all()
    cube = make((8, 8, 8), turn=turn).draw(N, generator())
    assert cube["turn_axes"].unique(dim=0).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert len(cube["axes"].unique(dim=0)) == 6
    odd = make((8, 9, 5), turn=turn).draw(N, generator())
    assert not odd["turns"].any()
    assert (odd["axes"] == torch.arange(3)).all()


def test_mirror_axes_of_a_2d_patch_are_plan_axes_1_and_2():
    labels = Labels({"background": 0, "organ": 1})
    assert MirrorSettings(axes=[0, 1]).patch_axes(3, labels) == (0, 1)
    assert MirrorSettings(axes=[0, 1]).patch_axes(2, labels) == (0,)
    assert MirrorSettings(axes=[]).patch_axes(3, labels) == ()
    assert MirrorSettings().patch_axes(2, labels) == (0, 1)
    with pytest.raises(SegflowError, match="among 0, 1 and 2"):
        MirrorSettings(axes=[3])


@pytest.mark.parametrize(
    ("names", "sided"),
    [
        (["kidney_left", "kidney_right"], True),
        (["L thalamus", "R thalamus"], True),
        (["Left-Hippocampus", "Right-Hippocampus"], True),
        (["left_atrium", "right_kidney"], False),
        (["liver", "tumour"], False),
    ],
)
def test_sides_are_read_from_the_names_and_keep_their_axis_from_being_mirrored(names, sided):
    labels = Labels({"background": 0, **{name: i + 1 for i, name in enumerate(names)}})
    assert has_sides(labels) == sided
    assert MirrorSettings().patch_axes(3, labels, left_right_axis=2) == ((0, 1) if sided else (0, 1, 2))
    assert MirrorSettings(keep_sides=False).patch_axes(3, labels, left_right_axis=2) == (0, 1, 2)
    assert MirrorSettings(keep_sides=True).patch_axes(2, labels, left_right_axis=2) == (0,)


@pytest.mark.parametrize(
    "wrong",
    [{"rotation_probability": 1.5}, {"scaling": (1.4, 0.7)}, {"scaling": (0.0, 1.0)}, {"label_interpolation": "cubic"}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SegflowError):
        SpatialSettings(**wrong)
