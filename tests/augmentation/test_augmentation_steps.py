"""Changes of grey values: what is drawn over 10,000 samples, and the values for fixed draws.

Values are compared with an independent computation in numpy, scipy or torch, one channel at a time.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch.nn import functional

from segflow.augmentation.intensity import Brightness, BrightnessShift, Contrast, Gamma, Noise
from segflow.augmentation.local import Gradient, LocalGamma, Rectangles, bump
from segflow.augmentation.resolution import Blur, LowResolution, Median, Sharpen, gaussian_kernel
from segflow.core.errors import SegflowError

N, C = 10_000, 3
PATCH = (12, 15, 10)

STEPS = {
    "noise": (Noise, 0.1, 1.0),
    "blur": (Blur, 0.2, 0.5),
    "brightness": (Brightness, 0.15, 1.0),
    "brightness_shift": (BrightnessShift, 0.1, 0.5),
    "contrast": (Contrast, 0.15, 1.0),
    "low_resolution": (LowResolution, 0.25, 0.5),
    "gamma": (Gamma, 0.3, 1.0),
    "median": (Median, 0.2, 0.5),
    "sharpen": (Sharpen, 0.2, 0.5),
    "rectangles": (lambda **options: Rectangles(size=(0.25, 0.5), **options), 0.4, 0.5),
    "gradient": (Gradient, 0.3, 0.5),
    "local_gamma": (LocalGamma, 0.3, 0.5),
}


def make(name, patch=PATCH):
    """A step with its probabilities, for patches of this size."""
    build, probability, channel_probability = STEPS[name]
    return build(probability=probability, channel_probability=channel_probability).bind(patch, False)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def near(share, probability, n=N):
    """Within four standard errors."""
    assert abs(float(share) - probability) < 4 * math.sqrt(probability * (1 - probability) / n) + 1e-9


def is_uniform(values, low, high):
    """By a Kolmogorov-Smirnov test that a correct draw fails once in 10,000 (the seed is fixed)."""
    assert stats.kstest(np.asarray(values, float).ravel(), stats.uniform(low, high - low).cdf).pvalue > 1e-4


def is_factor(values, low, high):
    values = np.asarray(values, float).ravel()
    near((values < 1).mean(), 0.5, len(values))
    is_uniform(values[values < 1], low, 1)
    is_uniform(values[values >= 1], 1, high)


@pytest.mark.parametrize("name", STEPS)
def test_samples_and_their_channels_are_chosen_with_their_probabilities(name):
    _, probability, channel_probability = STEPS[name]
    chosen = make(name).draw(N, C, generator())["selected"]
    assert chosen.shape == (N, C)
    # A sample that was chosen may still have no channel chosen.
    near(chosen.any(1).float().mean(), probability * (1 - (1 - channel_probability) ** C))
    for channel in range(C):
        near(chosen[:, channel].float().mean(), probability * channel_probability)
    near((chosen[:, 0] & chosen[:, 1]).float().mean(), probability * channel_probability**2)


@pytest.mark.parametrize("name", STEPS)
def test_chosen_channels_change_and_no_others(name):
    step = make(name)
    image = torch.randn((8, C, *PATCH), generator=generator(1))
    draws = step.draw(8, C, generator(2))
    draws["selected"] = torch.rand((8, C), generator=generator(3)) < 0.5
    out = image.clone()
    step.apply(out, draws)
    changed = (out != image).flatten(2).any(2)
    assert torch.equal(changed, draws["selected"])
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("shape", [(64, 48), (4, 16, 20)])
def test_every_step_works_in_2d_and_on_flat_patches(name, shape):
    step = make(name, shape)
    image = torch.randn((2, 2, *shape), generator=generator(1))
    draws = step.draw(2, 2, generator())
    draws["selected"][:] = True
    step.apply(image, draws)
    assert image.shape == (2, 2, *shape)
    assert torch.isfinite(image).all()


@pytest.mark.parametrize("name", STEPS)
def test_a_constant_channel_stays_finite(name):
    step = make(name)
    image = torch.full((1, 1, *PATCH), 3.0)
    draws = step.draw(1, 1, generator())
    draws["selected"][:] = True
    step.apply(image, draws)
    assert torch.isfinite(image).all()


def run(step, image, **draws):
    """Apply to a copy of image (C, *patch), with draws given for each channel."""
    out = image.clone()[None]
    fixed = {name: torch.as_tensor(value)[None] for name, value in draws.items()}
    step.apply(out, {"selected": torch.ones((1, len(image)), dtype=torch.bool), **fixed})
    return out[0].numpy()


@pytest.fixture
def image():
    smooth = functional.interpolate(torch.randn((1, 2, 4, 4, 4), generator=generator(5)), PATCH, mode="trilinear")[0]
    return smooth + 0.1 * torch.randn((2, *PATCH), generator=generator(6))


def test_noise_has_the_drawn_deviation_shared_by_channels_with_fields_of_their_own():
    draws = Noise().draw(N, C, generator())
    is_uniform(draws["sigma"][:, 0], 0, 0.1)
    assert (draws["sigma"] == draws["sigma"][:, :1]).all()
    out = run(Noise(), torch.zeros(2, 40, 40, 40), sigma=[0.07, 0.07], seed=[1, 2])
    np.testing.assert_allclose(out.std(axis=(1, 2, 3)), 0.07, rtol=0.02)
    assert abs(np.corrcoef(out[0].ravel(), out[1].ravel())[0, 1]) < 0.02
    own = Noise(same_for_channels=False).draw(10, C, generator())["sigma"]
    assert (own[:, 0] != own[:, 1]).all()


def test_brightness_is_a_factor_of_each_channel(image):
    draws = Brightness().draw(N, C, generator())
    is_factor(draws["factor"], 0.75, 1.25)
    out = run(Brightness(), image, factor=[0.8, 1.2])
    np.testing.assert_allclose(out, image.numpy() * np.array([0.8, 1.2]).reshape(2, 1, 1, 1), rtol=1e-6)


def test_a_factor_range_above_one_is_uniform():
    draws = Brightness(factor=(1.1, 1.5)).draw(N, 1, generator())
    is_uniform(draws["factor"], 1.1, 1.5)


def test_brightness_shift_is_gaussian(image):
    draws = BrightnessShift().draw(N, C, generator())
    assert stats.kstest(draws["shift"].flatten().numpy(), stats.norm(0, 0.5).cdf).pvalue > 1e-4
    out = run(BrightnessShift(), image, shift=[0.3, -0.4])
    np.testing.assert_allclose(out, image.numpy() + np.array([0.3, -0.4]).reshape(2, 1, 1, 1), atol=1e-6)


@pytest.mark.parametrize("keep_range", [True, False])
def test_contrast_spreads_about_the_mean_and_keeps_the_range_if_asked(image, keep_range):
    is_factor(Contrast().draw(N, C, generator())["factor"], 0.75, 1.25)
    out = run(Contrast(keep_range=keep_range), image, factor=[0.8, 1.6])
    for channel, spread in enumerate((0.8, 1.6)):
        values = image[channel].numpy().astype(float)
        expected = (values - values.mean()) * spread + values.mean()
        if keep_range:
            expected = expected.clip(values.min(), values.max())
        np.testing.assert_allclose(out[channel], expected, atol=1e-5)


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_gamma_acts_on_the_range_and_restores_mean_and_deviation(image, inverted, keep):
    is_factor(Gamma().draw(N, C, generator())["gamma"], 0.7, 1.5)
    out = run(Gamma(inverted=inverted, keep_statistics=keep), image, gamma=[0.7, 1.5])
    for channel, gamma in enumerate((0.7, 1.5)):
        values = image[channel].numpy().astype(float) * (-1 if inverted else 1)
        low, extent = values.min(), np.ptp(values)
        expected = ((values - low) / extent) ** gamma * extent + low
        if keep:
            expected = (expected - expected.mean()) / expected.std(ddof=1) * values.std(ddof=1) + values.mean()
        np.testing.assert_allclose(out[channel], expected * (-1 if inverted else 1), atol=2e-5)


@pytest.mark.parametrize(
    ("sigma", "length"), [(0.3, 3), (0.5, 3), (0.58, 3), (0.59, 5), (0.91, 5), (0.92, 7), (1.0, 7), (1.5, 9)]
)
def test_kernel_lengths_are_those_of_the_recipe(sigma, length):
    kernel = gaussian_kernel(sigma)
    assert len(kernel) == length
    assert sum(kernel) == pytest.approx(1)


def test_blur_is_a_gaussian_of_its_own_along_each_axis(image):
    draws = Blur().bind(PATCH, False).draw(N, C, generator())
    is_uniform(draws["sigma"], 0.5, 1.0)
    assert (draws["sigma"][:, 0, 0] != draws["sigma"][:, 0, 1]).all()
    same = Blur(same_for_axes=True).bind(PATCH, False).draw(10, C, generator())["sigma"]
    assert (same == same[..., :1]).all()
    sigmas = [[0.5, 0.8, 1.0], [0.95, 0.55, 0.7]]
    out = run(Blur().bind(PATCH, False), image, sigma=sigmas)
    for channel in range(2):
        expected = image[channel].numpy().astype(float)
        for axis, sigma in enumerate(sigmas[channel]):
            half = len(gaussian_kernel(sigma)) // 2
            weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
            expected = ndimage.convolve1d(expected, weights / weights.sum(), axis=axis, mode="mirror")
        np.testing.assert_allclose(out[channel], expected, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_blur_of_an_axis_shorter_than_the_kernel_mirrors_as_often_as_needed(count):
    image = torch.randn((1, count, 6), generator=generator())
    out = run(Blur().bind((8, 8), False), image, sigma=[[1.0, 1.0]])
    weights = np.array(gaussian_kernel(1.0))
    expected = ndimage.convolve1d(image[0].numpy().astype(float), weights, axis=0, mode="mirror")
    np.testing.assert_allclose(out[0], ndimage.convolve1d(expected, weights, axis=1, mode="mirror"), atol=1e-6)


def test_low_resolution_drops_voxels_and_interpolates_them_anew(image):
    is_uniform(LowResolution().bind(PATCH, False).draw(N, C, generator())["scale"], 0.5, 1)
    out = run(LowResolution().bind(PATCH, False), image, scale=[0.5, 0.77])
    for channel, scale in enumerate((0.5, 0.77)):
        small = image[channel].numpy().astype(float)
        sizes = [round(n * scale) for n in PATCH]
        for axis, size in enumerate(sizes):
            source = np.floor((np.arange(size) + 0.5) * PATCH[axis] / size).astype(int)
            small = small.take(source, axis)
        for axis, size in enumerate(sizes):
            position = ((np.arange(PATCH[axis]) + 0.5) * size / PATCH[axis] - 0.5).clip(0, size - 1)
            low = np.floor(position).astype(int)
            share = (position - low).reshape([-1 if a == axis else 1 for a in range(3)])
            small = small.take(low, axis) * (1 - share) + small.take(np.minimum(low + 1, size - 1), axis) * share
        np.testing.assert_allclose(out[channel], small, atol=1e-5)


def test_low_resolution_leaves_the_slices_of_dummy_2d_apart():
    image = torch.randn((1, 6, 16, 20), generator=generator())
    changed = image.clone()
    changed[0, 3] += 1
    first, second = (run(LowResolution().bind((6, 16, 20), True), x, scale=[0.5]) for x in (image, changed))
    np.testing.assert_array_equal(np.delete(first, 3, 1), np.delete(second, 3, 1))
    assert (first[0, 3] != second[0, 3]).all()


def test_median_is_that_of_scipy_with_sizes_2_to_7(image):
    sizes = Median().draw(N, C, generator())["size"]
    assert sizes.unique().tolist() == [2, 3, 4, 5, 6, 7]
    near((sizes == 4).float().mean(), 1 / 6, N * C)
    out = run(Median(), image, size=[2, 3])
    for channel, size in enumerate((2, 3)):
        np.testing.assert_array_equal(out[channel], ndimage.median_filter(image[channel].numpy(), size=size))


def test_sharpening_subtracts_the_laplacian(image):
    is_uniform(Sharpen().draw(N, C, generator())["strength"], 0.1, 1)
    out = run(Sharpen(), image, strength=[0.3, 0.9])
    for channel, strength in enumerate((0.3, 0.9)):
        values = image[channel].numpy().astype(float)
        np.testing.assert_allclose(out[channel], values - strength * ndimage.laplace(values), atol=1e-5)


def test_rectangles_are_filled_with_their_mean(image):
    step = Rectangles().bind(PATCH, False)
    starts, sizes = [[[1, 2, 3], [2, 3, 4], [9, 9, 9]]] * 2, [[[2, 3, 2], [3, 3, 2], [1, 1, 1]]] * 2
    out = run(step, image, count=[1, 2], start=starts, size=sizes)
    expected = image.numpy().copy()
    expected[:, 1:3, 2:5, 3:5] = expected[:, 1:3, 2:5, 3:5].mean((1, 2, 3), keepdims=True)
    expected[1, 2:5, 3:6, 4:6] = expected[1, 2:5, 3:6, 4:6].mean()
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize("patch", [(128, 70, 30), (40, 56), (4, 16, 20)])
def test_rectangles_have_edges_of_the_recipe_and_stay_inside(patch):
    draws = Rectangles().bind(patch, False).draw(N, 1, generator())
    assert draws["count"].unique().tolist() == [1, 2, 3, 4]
    size, start = draws["size"].flatten(0, 2), draws["start"].flatten(0, 2)
    for axis, n in enumerate(patch):
        smallest = max(1, n // 10)
        assert size[:, axis].unique().tolist() == list(range(smallest, max(smallest + 1, n // 3)))
        assert start[:, axis].min() == 0
        assert (start[:, axis] + size[:, axis]).max() == n


def bump_reference(shape, centre, width):
    kernel = np.ones(())
    for n, middle, sigma in zip(shape, centre, width, strict=True):
        kernel = kernel[..., None] * np.diff(stats.norm.cdf(np.arange(-0.5, n + 0.5), middle, sigma))
    return (kernel - kernel.min()) / np.ptp(kernel)


def test_a_bump_is_the_mass_of_a_gaussian_brought_to_0_to_1():
    centre, width = torch.tensor([3.0, 20.0, -2.0]), torch.tensor([2.0, 9.0, 4.0])
    out = bump(PATCH, centre, width, torch.device("cpu"))
    np.testing.assert_allclose(out, bump_reference(PATCH, centre.numpy(), width.numpy()), atol=1e-5)


def test_places_and_widths_of_bumps_are_those_of_the_recipe():
    draws = Gradient().bind((60, 128), False).draw(N, 1, generator())
    for axis, n in enumerate((60, 128)):
        is_uniform(draws["centre"][..., axis] / n, -0.5, 1.5)
        is_uniform(draws["width"][..., axis].log(), math.log(n // 6), math.log(n))


def test_gradients_are_added_with_their_strength(image):
    strength = Gradient().bind(PATCH, False).draw(N, C, generator())["strength"]
    is_uniform(strength.abs(), 1, 5)
    near((strength > 0).float().mean(), 0.5, N * C)
    centre, width = [[2.0, 3.0, 4.0], [9.0, -2.0, 5.0]], [[3.0, 4.0, 5.0], [6.0, 5.0, 3.0]]
    out = run(Gradient().bind(PATCH, False), image, strength=[2.5, -1.5], centre=centre, width=width)
    for channel, factor in enumerate((2.5, -1.5)):
        expected = image[channel].numpy() + factor * bump_reference(PATCH, centre[channel], width[channel])
        np.testing.assert_allclose(out[channel], expected, atol=1e-4)


def test_local_gamma_blends_with_the_bump(image):
    gamma = LocalGamma().bind(PATCH, False).draw(N, C, generator())["gamma"].flatten()
    near((gamma < 1).float().mean(), 0.5, N * C)
    is_uniform(gamma[gamma < 1], 0.01, 0.8)
    is_uniform(gamma[gamma > 1], 1.5, 4)
    centre, width = [[2.0, 3.0, 4.0], [9.0, -2.0, 5.0]], [[3.0, 4.0, 5.0], [6.0, 5.0, 3.0]]
    out = run(LocalGamma().bind(PATCH, False), image, gamma=[0.5, 3.0], centre=centre, width=width)
    for channel, power in enumerate((0.5, 3.0)):
        values = image[channel].numpy().astype(float)
        unit = (values - values.min()) / np.ptp(values)
        weight = bump_reference(PATCH, centre[channel], width[channel])
        expected = (unit * (1 - weight) + unit**power * weight) * np.ptp(values) + values.min()
        np.testing.assert_allclose(out[channel], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (Noise, {"sigma": (0.2, 0.1)}),
        (Blur, {"sigma": (0.0, 1.0)}),
        (Gamma, {"probability": -0.1}),
        (LowResolution, {"scale": (0.0, 1.0)}),
        (Rectangles, {"count": (0, 4)}),
        (Contrast, {"channel_probability": 1.01}),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, wrong):
    with pytest.raises(SegflowError, match=rf"{settings.__name__}\.{next(iter(wrong))}"):
        settings(**wrong)
