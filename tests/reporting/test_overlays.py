"""Pictures of cases."""

from __future__ import annotations

import numpy as np
import pytest

from segflow.reporting.overlays import PALETTE, best_slice, draw_overlay


def test_the_slice_shows_most_of_every_label() -> None:
    label = np.zeros((5, 10, 10), np.int16)
    label[1] = 1  # 100 voxels of 1
    label[3, :, :5] = 1  # 50 of 1
    label[3, :, 5:] = 2  # all 50 of 2
    label[4, 0, 0] = -1
    # slice 1: (100/150 + 0) / 2; slice 3: (50/150 + 1) / 2
    assert best_slice(label) == 3
    assert best_slice(np.where(label == 2, 0, label)) == 1


def test_without_labels_it_is_the_middle() -> None:
    assert best_slice(np.zeros((7, 3, 3), int)) == 3


def test_a_label_keeps_its_colour_whatever_else_is_there() -> None:
    image = np.zeros((256, 256), np.float32)
    for label in (1, 2, 15, 16, 118, 300):
        picture = draw_overlay(image, np.full((256, 256), label), (1.0, 1.0), opacity=1.0)
        assert tuple(picture[5, 5]) == PALETTE[(label - 1) % 255]


def test_each_of_many_labels_has_a_colour_of_its_own() -> None:
    assert len(set(PALETTE)) == 255
    colours = np.asarray(PALETTE[:118], float)
    apart = np.abs(colours[:, None] - colours[None]).max(-1) + 255 * np.eye(118)
    assert apart.min() > 5
    assert np.ptp(colours, axis=1).min() > 40  # no greys, which would look like the image


def test_opacity_mixes_grey_and_colour() -> None:
    image = np.linspace(0, 1, 256 * 256, dtype=np.float32).reshape(256, 256)
    label = np.zeros((256, 256), int)
    plain = draw_overlay(image, label, (1.0, 1.0))
    assert (plain[..., 0] == plain[..., 1]).all()
    assert plain.min() == 0
    assert plain.max() == 255
    np.testing.assert_array_equal(draw_overlay(image, label + 1, (1.0, 1.0), opacity=0.0), plain)
    half = draw_overlay(image, label + 1, (1.0, 1.0), opacity=0.5)
    np.testing.assert_allclose(half, (plain.astype(float) + PALETTE[0]) / 2, atol=1.5)


@pytest.mark.parametrize(
    ("shape", "spacing", "size"),
    [((64, 64), (1.0, 1.0), (256, 256)), ((10, 100), (5.0, 1.0), (128, 256)), ((2000, 500), (1.0, 1.0), (768, 192))],
)
def test_proportions_are_those_of_the_patient(
    shape: tuple[int, int], spacing: tuple[float, float], size: tuple[int, int]
) -> None:
    picture = draw_overlay(np.zeros(shape, np.float32), np.zeros(shape, int), spacing)
    assert picture.shape == (*size, 3)


def test_a_constant_image_can_be_drawn() -> None:
    assert np.isfinite(draw_overlay(np.full((9, 9), 7.0), np.eye(9, dtype=int), (1.0, 1.0))).all()
