"""Values that no measurement gives are told from those of every unit that images come in."""

from __future__ import annotations

import numpy as np
import pytest

from segflow.core.fingerprint import ChannelIntensities
from segflow.core.intensities import absurd_channels, absurd_values, describe_absurd, labels_for_image


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


def statistics(values: np.ndarray) -> ChannelIntensities:
    low, median, high = np.percentile(values, [0.5, 50, 99.5])
    return ChannelIntensities(
        max=float(values.max()),
        mean=float(values.mean()),
        median=float(median),
        min=float(values.min()),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
        std=float(values.std()),
    )


def label_map(*values: int) -> np.ndarray:
    image = np.full((20, 30, 40), values[0], np.float32)
    for k, value in enumerate(values[1:]):
        image[4 + k, 5:9, 6:12] = value
    return image


MODALITIES = {
    "CT": noise(-50, 200).round(),
    "MR": noise(500, 100),
    "z-scores": noise(0, 1),
    "0 to 1": np.clip(noise(0.5, 0.2), 0, 1),
    "8 bit": np.clip(noise(120, 40).round(), 0, 255),
    "few grey values": (noise(0, 20).round() + 100),
    "mask": label_map(0, 1),
    "mask of 255": label_map(0, 255),
}


@pytest.mark.parametrize("trained", MODALITIES)
def test_images_of_every_modality_are_images(trained: str) -> None:
    usual = statistics(MODALITIES[trained])
    assert labels_for_image(MODALITIES[trained][None], [usual], 3) is None
    assert labels_for_image((MODALITIES[trained] * np.float32(1.5))[None], [usual], 3) is None


@pytest.mark.parametrize("trained", [name for name in MODALITIES if "mask" not in name])
@pytest.mark.parametrize("values", [(0, 1), (0, 1, 2), (0, 255), (0, 7, 12), (-1, 0, 1)])
def test_label_maps_are_told_from_images(trained: str, values: tuple[int, ...]) -> None:
    found = labels_for_image(label_map(*values)[None], [statistics(MODALITIES[trained])], 3)
    assert found is not None
    assert found[0] == sorted(values)


def test_a_mask_among_the_channels_is_expected_where_the_training_had_one() -> None:
    usual = [statistics(MODALITIES["CT"]), statistics(MODALITIES["mask"])]
    assert labels_for_image(np.stack([noise(), label_map(0, 1)]), usual, 3) is None
    assert labels_for_image(np.stack([label_map(0, 2), label_map(0, 1)]), usual, 3) is not None
