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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_refused(bad: float) -> None:
    image = random_image()
    image[0, 0, 0] = bad
    with pytest.raises(SegflowError, match="not numbers"):
        normalize(image, "ZScoreNormalization")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(SegflowError, match="unknown normalisation"):
        normalize(random_image(), "os.system")
