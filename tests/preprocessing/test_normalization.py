from __future__ import annotations

import numpy as np
import pytest

from segflow.core.errors import SegflowError
from segflow.core.fingerprint import ChannelIntensities
from segflow.preprocessing.normalization import normalize

STATISTICS = ChannelIntensities(
    max=200.0, mean=50.0, median=48.0, min=-100.0, percentile_00_5=-80.0, percentile_99_5=150.0, std=30.0
)


def random_image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-200, 300, size=(4, 5, 6)).astype(np.float32)


def test_z_score_has_mean_0_and_deviation_1() -> None:
    image = random_image()
    expected = (image - image.mean()) / image.std()
    normalize(image, "ZScoreNormalization")
    np.testing.assert_allclose(image, expected, atol=1e-5)
    assert image.dtype == np.float32


def test_z_score_within_a_mask_leaves_the_rest_untouched() -> None:
    image = random_image()
    inside = np.random.default_rng(1).random(image.shape) < 0.5
    before = image.copy()
    normalize(image, "ZScoreNormalization", inside)
    assert np.array_equal(image[~inside], before[~inside])
    values = before[inside]
    np.testing.assert_allclose(image[inside], (values - values.mean()) / values.std(), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1234.567, -3e7])
def test_z_score_of_a_constant_image_is_zero(value: float) -> None:
    image = np.full((3, 4, 5), value, np.float32)
    normalize(image, "ZScoreNormalization")
    assert not image.any()


def test_an_empty_mask_changes_nothing() -> None:
    image = random_image()
    before = image.copy()
    normalize(image, "ZScoreNormalization", np.zeros(image.shape, bool))
    assert np.array_equal(image, before)


def test_ct_clips_and_uses_the_statistics_of_the_dataset() -> None:
    image = random_image()
    expected = (np.clip(image, -80, 150) - 50) / 30
    normalize(image, "CTNormalization", None, STATISTICS)
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_ct_without_statistics_is_refused() -> None:
    with pytest.raises(SegflowError, match="foreground intensities"):
        normalize(random_image(), "CTNormalization")


def test_rescale_spans_0_to_1_and_survives_a_constant() -> None:
    image = random_image()
    normalize(image, "RescaleTo01Normalization")
    assert image.min() == 0
    assert image.max() == 1
    constant = np.full((2, 2, 2), 7.0, np.float32)
    normalize(constant, "RescaleTo01Normalization")
    assert not constant.any()


def test_rgb_divides_by_255_and_refuses_other_ranges() -> None:
    image = np.array([0, 51, 255], np.float32).reshape(1, 1, 3)
    normalize(image, "RGBTo01Normalization")
    np.testing.assert_allclose(image.ravel(), [0, 0.2, 1], atol=1e-7)
    with pytest.raises(SegflowError, match="8-bit colours"):
        normalize(np.full((1, 1, 2), 256, np.float32), "RGBTo01Normalization")


def test_no_normalization_keeps_values() -> None:
    image = random_image()
    before = image.copy()
    normalize(image, "NoNormalization")
    assert np.array_equal(image, before)


@pytest.mark.parametrize("scale", [1e-35, 1e-38, 1e-20, 1e-11, 1e-6, 1.0, 1e6, 1e23, 2e36])
@pytest.mark.parametrize("masked", [False, True])
def test_z_scores_do_not_depend_on_the_unit(scale: float, masked: bool) -> None:
    image = (np.random.default_rng(3).normal(90, 10, size=(6, 7, 8)) * scale).astype(np.float32)
    inside = np.random.default_rng(1).random(image.shape) < 0.5 if masked else np.ones(image.shape, bool)
    values = image[inside].astype(np.float64)
    normalize(image, "ZScoreNormalization", inside if masked else None)
    np.testing.assert_allclose(image[inside], (values - values.mean()) / values.std(), atol=2e-5)


def test_values_at_the_end_of_float32_leave_finite_scores() -> None:
    for extremes in ([-3.4028235e38], [3.4028235e38, -3.4028235e38], [3.4028235e38] * 100 + [-3.4028235e38]):
        image = random_image()
        image.ravel()[: len(extremes)] = extremes
        values = image.astype(np.float64)
        normalize(image, "ZScoreNormalization")
        np.testing.assert_allclose(image, (values - values.mean()) / values.std(), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_finite_values_there_are_the_scores_are_finite(seed: int) -> None:
    generator = np.random.default_rng(seed)
    for _ in range(60):
        image = generator.integers(0, 2**32, size=(3, 4, 5), dtype=np.uint64).astype(np.uint32).view(np.float32)
        image = np.where(np.isfinite(image), image, np.float32(0))
        image[generator.random(image.shape) < generator.random()] = generator.choice(image.ravel())
        inside = generator.random(image.shape) < 0.5
        scores, masked, rescaled = (image.copy() for _ in range(3))
        normalize(scores, "ZScoreNormalization")
        normalize(masked, "ZScoreNormalization", inside)
        normalize(rescaled, "RescaleTo01Normalization")
        assert np.isfinite(scores).all()
        assert abs(scores.mean(dtype=np.float64)) < 1e-5
        assert scores.std(dtype=np.float64) == pytest.approx(float(image.min() < image.max()), abs=1e-5)
        assert np.isfinite(masked).all()
        assert rescaled.min() == 0
        assert rescaled.max() == (image.min() < image.max())


def test_z_scores_of_a_large_slice_are_those_of_exact_sums() -> None:
    """Sums in float32 are off by 4e-4 here, those of nnU-Net by 1e-6."""
    image = np.random.default_rng(0).gamma(1, 50, size=(1, 1500, 1500)).astype(np.float32).round()
    values = image.astype(np.longdouble)
    normalize(image, "ZScoreNormalization")
    assert abs(image - (values - values.mean()) / values.std()).max() < 2e-6


def test_what_is_equal_to_nnunet_to_the_bit_stays_so() -> None:
    image = np.random.default_rng(0).normal(50, 300, size=(20, 64, 64)).round().astype(np.float32)
    expected = (image - image.mean()) / max(image.std(), 1e-8)
    normalize(image, "ZScoreNormalization")
    assert np.array_equal(image, expected)


def test_the_rounding_of_a_constant_image_is_not_blown_up() -> None:
    image = np.full((40, 50, 60), 1000.0, np.float32)
    image[0, 0, 0] = np.nextafter(np.float32(1000), np.float32(2000))
    normalize(image, "ZScoreNormalization")
    assert np.abs(image).max() < 10


@pytest.mark.parametrize("scale", [1e-35, 1e-20, 1e-9, 1e25, 1e36])
def test_other_schemes_do_not_depend_on_the_unit(scale: float) -> None:
    image = (random_image() * scale).astype(np.float32)
    rescaled, by_dataset = image.copy(), image.copy()
    values = image.astype(np.float64)
    normalize(rescaled, "RescaleTo01Normalization")
    np.testing.assert_allclose(rescaled, (values - values.min()) / np.ptp(values), atol=1e-6)
    statistics = ChannelIntensities(*(scale * getattr(STATISTICS, name) for name in ChannelIntensities.__slots__))
    normalize(by_dataset, "CTNormalization", None, statistics)
    np.testing.assert_allclose(by_dataset, (np.clip(values / scale, -80, 150) - 50) / 30, atol=0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_refused(bad: float) -> None:
    image = random_image()
    image[0, 0, 0] = bad
    with pytest.raises(SegflowError, match="not numbers"):
        normalize(image, "ZScoreNormalization")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(SegflowError, match="unknown normalisation"):
        normalize(random_image(), "os.system")
