from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import binary_fill_holes

from segflow.core import cropping
from segflow.core.cropping import crop_to_nonzero
from segflow.core.geometry import Box

shapes = st.tuples(*[st.integers(1, 9)] * 3)
sparse = st.sampled_from([0.3, 0.6, 0.8, 0.95]).flatmap(lambda p: st.tuples(st.just(p), shapes, st.integers(0, 2**31)))


def random_mask(parameters: tuple[float, tuple[int, ...], int]) -> np.ndarray:
    share, shape, seed = parameters
    return np.random.default_rng(seed).random(shape) < share


def nonzero_mask(image: np.ndarray) -> np.ndarray:
    """The filled mask, as the label of a crop without label shows it."""
    _, label, box = crop_to_nonzero(image, None)
    mask = np.zeros(image.shape[1:], bool)
    mask[box.slices] = label == 0
    return mask


@pytest.mark.parametrize("voxels_per_run", [0, 1, 10**9])
@settings(max_examples=300, deadline=None)
@given(parameters=sparse)
def test_mask_equals_scipy_hole_filling(voxels_per_run: int, parameters: tuple[float, tuple[int, ...], int]) -> None:
    mask = random_mask(parameters)
    with pytest.MonkeyPatch.context() as patch:  # all ways of filling
        patch.setattr(cropping, "_SMALL", 0 if voxels_per_run else 10**9)
        patch.setattr(cropping, "_VOXELS_PER_RUN", voxels_per_run or 1)
        assert np.array_equal(nonzero_mask(mask[None].astype(np.float32)), binary_fill_holes(mask))


def test_a_shell_within_a_shell() -> None:
    z, y, x = np.mgrid[:40, :44, :48]
    radius = np.sqrt((z - 20) ** 2 + (y - 22) ** 2 + (x - 24) ** 2)
    mask = ((radius > 14) & (radius < 18)) | ((radius > 5) & (radius < 9))
    mask[20, 22, 30:44] = False  # a canal into the outer hole
    image = mask[None].astype(np.float32) * 7
    assert np.array_equal(nonzero_mask(image), binary_fill_holes(mask))


@settings(max_examples=100, deadline=None)
@given(sparse)
def test_crop_marks_what_lies_outside_the_filled_mask(parameters: tuple[float, tuple[int, ...], int]) -> None:
    mask = random_mask(parameters)
    image = np.stack([mask, mask]).astype(np.float32)
    label = (np.random.default_rng(1).random(mask.shape) < 0.2).astype(np.int16) * 3
    cropped, marked, box = crop_to_nonzero(image, label)
    filled = binary_fill_holes(mask)
    expected = np.where(~filled & (label == 0), -1, label)[box.slices]
    assert np.array_equal(marked, expected)
    assert np.array_equal(cropped, image[(slice(None), *box.slices)])
    assert filled.sum() == filled[box.slices].sum()


@given(hnp.arrays(np.float32, shapes.map(lambda s: (1, *s)), elements=st.sampled_from([0.0, 0.0, 0.0, -1.0])))
def test_box_is_tight(image: np.ndarray) -> None:
    box = crop_to_nonzero(image, None).box
    where = np.argwhere(image[0])
    if not len(where):
        assert box == Box.whole(image.shape[1:])
    else:
        assert box.start == tuple(where.min(0))
        assert box.stop == tuple(where.max(0) + 1)


def test_nothing_is_filled_in_a_single_slice() -> None:
    ring = np.ones((1, 1, 5, 5), np.float32)
    ring[0, 0, 2, 2] = 0
    _, label, _ = crop_to_nonzero(ring, None)
    assert label[0, 2, 2] == -1


def test_channels_are_united() -> None:
    image = np.zeros((2, 4, 4, 4), np.float32)
    image[0, 1, 1, 1] = 1
    image[1, 2, 3, 3] = -2
    assert crop_to_nonzero(image, None).box == Box((1, 1, 1), (3, 4, 4))


def test_without_label_the_mask_becomes_one() -> None:
    image = np.zeros((1, 5, 5, 5), np.float32)
    image[0, 1:4, 1:4, 1:4] = 1
    image[0, 2, 2, 2] = 0
    image[0, 1, 1, 1] = 0
    _, label, box = crop_to_nonzero(image, None)
    assert box.shape == (3, 3, 3)
    assert label[0, 0, 0] == -1
    assert label[1, 1, 1] == 0
    assert (label == -1).sum() == 1


def test_the_label_given_stays_as_it_was() -> None:
    image = np.zeros((1, 3, 3, 3), np.float32)
    image[0, 0, 0, 0] = image[0, 2, 2, 2] = 1
    label = np.zeros((3, 3, 3), np.int16)
    crop_to_nonzero(image, label)
    assert not label.any()


@pytest.mark.parametrize("margin", [0, 1])
def test_a_label_that_may_be_overwritten_is_marked_alike(margin: int) -> None:
    rng = np.random.default_rng(1)
    image = np.pad((rng.random((1, 6, 7, 8)) < 0.3).astype(np.float32), [(0, 0), *[(margin, margin)] * 3])
    label = (rng.random(image.shape[1:]) < 0.1).astype(np.int16)
    kept = crop_to_nonzero(image, label)
    overwritten = crop_to_nonzero(image, label.copy(), may_overwrite=True)
    np.testing.assert_array_equal(kept.label, overwritten.label)
    assert (kept.label == -1).any()
    assert kept.box == overwritten.box


def test_empty_image_keeps_its_size() -> None:
    image = np.zeros((1, 3, 4, 5), np.float32)
    cropped, label, box = crop_to_nonzero(image, np.ones((3, 4, 5), np.int16))
    assert cropped.shape == image.shape
    assert box == Box.whole((3, 4, 5))
    assert (label == 1).all()
