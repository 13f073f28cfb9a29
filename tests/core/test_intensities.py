"""Values that no measurement gives are told from those of every unit that images come in."""

from __future__ import annotations

import numpy as np
import pytest

from segflow.core.intensities import absurd_channels, absurd_values, describe_absurd


def noise(mean: float = 100.0, deviation: float = 10.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, size=(20, 30, 40)).astype(np.float32)


def pet() -> np.ndarray:
    """Bq/mL, with a bladder far above everything else."""
    image = np.random.default_rng(0).lognormal(7, 1.5, size=(20, 30, 40))
    image[4:6, 4:7, 4:7] = 4e6
    return image.astype(np.float32)


def sparse() -> np.ndarray:
    """Zero nearly everywhere, such as the probability of a small vessel."""
    image = np.zeros((20, 30, 40), np.float32)
    image[3, 4, 5:9] = 1e7
    return image


@pytest.mark.parametrize(
    "image",
    [
        *(noise() * np.float32(scale) for scale in (1e-11, 1e-3, 1.0, 1e3)),
        noise(-200, 500).round(),
        np.where(noise() > 110, np.float32(-32768), noise()),
        pet(),
        sparse(),
        np.zeros((2, 3, 4), np.float32),
    ],
    ids=["m²/s", "seconds", "plain", "large", "CT", "padding of int16", "PET", "sparse", "zero"],
)
def test_values_of_real_units_are_not_absurd(image: np.ndarray) -> None:
    assert absurd_values(image) is None


@pytest.mark.parametrize("marker", [-3.4028235e38, 3.4e38, 1e20, -1e10, -2147483648.0, 1e7])
def test_a_marker_in_one_voxel_is_counted_and_told_apart_from_the_others(marker: float) -> None:
    image = noise()
    image[0, 0, 0] = marker
    assert f"1 of 24000 voxels is as large as {np.float32(marker):.3g}" in str(absurd_values(image))
    assert f"between {noise().min():.3g} and" in str(absurd_values(image))


@pytest.mark.parametrize("marker", [-3.4028235e38, -2147483648.0])
def test_a_marker_in_much_of_the_image_is_seen_too(marker: float) -> None:
    image = noise()
    image[:, :, :15] = marker
    assert "9000 of 24000 voxels" in str(absurd_values(image))


@pytest.mark.parametrize(
    ("scale", "clause"), [(1e23, "the values reach 1.39e+25"), (1e-22, "no value is larger than 1.39e-20")]
)
def test_a_scale_that_no_unit_has_is_named(scale: float, clause: str) -> None:
    assert clause in str(absurd_values(noise() * np.float32(scale)))


def test_all_cases_are_told_in_one_line_with_an_example() -> None:
    image = np.stack([noise(), noise() * np.float32(1e23)])
    found = absurd_channels(image)
    assert found is not None
    assert found.startswith("channel 1: the values reach")
    text = describe_absurd({f"case_{number}": found for number in range(9)})
    assert text.startswith("9 cases hold values that no measurement gives. Case 'case_0': channel 1: the values reach")
    assert "Likewise case_1, case_2, case_3, case_4, case_5 and 3 more." in text
    assert "\n" not in text
