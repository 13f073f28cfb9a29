"""The previous stage's channels: one-hot, morphology and removal of components."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from segflow.augmentation.cascade import CascadeSettings, PreviousStage, close, dilate, erode, open_, to_one_hot
from segflow.core.errors import SegflowError

N = 10_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def near(share, probability):
    assert abs(float(share) - probability) < 4 * math.sqrt(probability * (1 - probability) / N)


def ball(radius, dims):
    steps = np.arange(-int(radius), int(radius) + 1)
    return sum(np.square(g) for g in np.meshgrid(*[steps] * dims, indexing="ij")) <= radius**2


@pytest.mark.parametrize("radius", [1.0, 2.5, 4.9, 8.0])
@pytest.mark.parametrize("shape", [(24, 30, 27), (40, 33), (3, 20, 20)])
def test_morphology_is_that_of_a_ball(radius, shape):
    mask = torch.rand(shape, generator=generator()) < 0.02
    if radius > 2:
        mask[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = True
    element = ball(radius, len(shape))
    grown = ndimage.binary_dilation(mask, element)
    shrunk = ndimage.binary_erosion(mask, element, border_value=1)
    np.testing.assert_array_equal(dilate(mask, radius), grown)
    np.testing.assert_array_equal(erode(mask, radius), shrunk)
    np.testing.assert_array_equal(close(mask, radius), ndimage.binary_erosion(grown, element, border_value=1))
    np.testing.assert_array_equal(open_(mask, radius), ndimage.binary_dilation(shrunk, element))


def test_one_hot_has_a_channel_for_each_foreground_label_in_order():
    label = torch.tensor([[[0, 3], [5, -1]], [[5, 5], [0, 1]]], dtype=torch.int16)
    out = torch.full((2, 2, 2, 2), 9.0)
    to_one_hot(label, (3, 5), out)
    assert out[0].tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]]]
    assert out[1].tolist() == [[[0, 0], [0, 0]], [[1, 1], [0, 0]]]


def test_changes_are_drawn_as_the_recipe_says():
    draws = PreviousStage(CascadeSettings(), 2).draw(N, generator())
    near(draws["morphology"].any(1).float().mean(), 0.4 * 0.75)
    near(draws["morphology"][:, 1].float().mean(), 0.2)
    near(draws["removal"].any(1).float().mean(), 0.2 * 0.75)
    near((draws["removal_order"][:, 0] == 0).float().mean(), 0.5)
    near((draws["morphology_order"][:, 0] == 0).float().mean(), 0.5)
    for operation in range(4):
        near((draws["operation"][:, 0] == operation).float().mean(), 0.25)
    assert 1 <= draws["radius"].min() < 1.05
    assert 7.95 < draws["radius"].max() <= 8
    assert abs(draws["radius"].mean() - 4.5) < 0.1


def fixed(labels, **changes):
    draws = {
        "morphology_order": list(range(labels)),
        "morphology": [False] * labels,
        "operation": [0] * labels,
        "radius": [2.0] * labels,
        "removal_order": list(range(labels)),
        "removal": [False] * labels,
        "component": [0.0] * labels,
        **changes,
    }
    return {name: torch.tensor([value]) for name, value in draws.items()}


def test_voxels_that_a_label_gains_are_taken_from_the_others():
    channels = torch.zeros((1, 2, 9, 9))
    channels[0, 0, :, :3] = 1
    channels[0, 1, :, 3:] = 1
    PreviousStage(CascadeSettings(), 2).apply(channels, fixed(2, morphology=[True, False]))
    assert channels[0, 0, 0].tolist() == [1] * 5 + [0] * 4
    assert channels[0, 1, 0].tolist() == [0] * 5 + [1] * 4


def test_labels_are_changed_in_the_drawn_order():
    channels = torch.zeros((1, 2, 9, 9))
    channels[0, 0, :, :3] = 1
    channels[0, 1, :, 3:] = 1
    draws = fixed(2, morphology=[True, True], morphology_order=[1, 0])
    PreviousStage(CascadeSettings(), 2).apply(channels, draws)
    assert channels[0, 0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert channels[0, 1, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("choice", "gone"), [(0.0, "diagonal"), (0.99, "single")])
def test_one_small_component_goes_and_large_ones_stay(choice, gone):
    channels = torch.zeros((1, 1, 20, 20))
    channels[0, 0, :8, :10] = 1  # 20 % of the patch
    channels[0, 0, 11, 1] = channels[0, 0, 12, 2] = 1  # joined at a corner: one component
    channels[0, 0, 18, 18] = 1
    before = channels.clone()
    PreviousStage(CascadeSettings(), 1).apply(channels, fixed(1, removal=[True], component=[choice]))
    lost = (before != channels).nonzero()[:, 2:].tolist()
    assert lost == ([[11, 1], [12, 2]] if gone == "diagonal" else [[18, 18]])


def test_removal_of_nothing_is_fine():
    channels = torch.zeros((1, 1, 5, 5, 5))
    PreviousStage(CascadeSettings(), 1).apply(channels, fixed(1, removal=[True]))
    assert not channels.any()
    channels[:] = 1
    PreviousStage(CascadeSettings(), 1).apply(channels, fixed(1, removal=[True]))
    assert channels.all()


def test_channels_stay_zero_and_one_and_apart():
    label = torch.randint(0, 4, (3, 16, 18, 20), generator=generator())
    channels = torch.zeros((3, 3, 16, 18, 20))
    to_one_hot(label, (1, 2, 3), channels)
    stage = PreviousStage(CascadeSettings(morphology_probability=1, removal_probability=1, radius=(1.0, 3.0)), 3)
    stage.apply(channels, stage.draw(3, generator()))
    assert set(channels.unique().tolist()) <= {0.0, 1.0}
    assert channels.sum(1).max() <= 1


def test_impossible_settings_are_refused():
    with pytest.raises(SegflowError, match="radius"):
        CascadeSettings(radius=(1.0, 200.0))
    with pytest.raises(SegflowError, match="removal_probability"):
        CascadeSettings(removal_probability=2.0)
