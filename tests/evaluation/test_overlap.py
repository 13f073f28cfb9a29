"""Counting overlaps: by hand, and against one label at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segflow.core.errors import SegflowError
from segflow.evaluation.overlap import VOXELS_AT_ONCE, Overlap, count_pairs


def _by_hand(reference: np.ndarray, prediction: np.ndarray, key: object, ignore: int | None) -> Overlap:
    members = [key] if isinstance(key, int) else list(key)  # type: ignore[call-overload]
    a, b = np.isin(reference, members), np.isin(prediction, members)
    use = np.ones_like(a) if ignore is None else reference != ignore
    return Overlap(
        int((a & b & use).sum()), int((~a & b & use).sum()), int((a & ~b & use).sum()), int((~a & ~b & use).sum())
    )


def test_a_small_case_by_hand() -> None:
    reference = np.array([[[0, 0, 1, 1], [1, 2, 2, 0]]])
    prediction = np.array([[[0, 1, 1, 1], [2, 2, 0, 0]]])
    counts = count_pairs(reference, prediction)
    assert counts.overlap(1) == Overlap(tp=2, fp=1, fn=1, tn=4)
    assert counts.overlap(2) == Overlap(tp=1, fp=1, fn=1, tn=5)
    assert counts.overlap((1, 2)) == Overlap(tp=4, fp=1, fn=1, tn=2)
    assert counts.overlap(1).dice == pytest.approx(4 / 6)
    assert counts.overlap(1).iou == pytest.approx(2 / 4)
    assert (counts.overlap(1).n_pred, counts.overlap(1).n_ref) == (3, 3)


_maps = arrays.arrays(np.int16, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 5))


@settings(max_examples=60, deadline=None)
@given(reference=_maps, seed=st.integers(0, 99), ignore=st.sampled_from([None, 4, 5]))
def test_random_maps_agree_with_one_label_at_a_time(reference: np.ndarray, seed: int, ignore: int | None) -> None:
    prediction = np.random.default_rng(seed).integers(0, 6, reference.shape).astype(np.uint8)
    counts = count_pairs(reference, prediction)
    for key in (1, 2, 3, 9, (1, 2, 3), (2, 3), (3,)):
        assert counts.overlap(key, ignore) == _by_hand(reference, prediction, key, ignore)


@pytest.mark.parametrize("high", [3, 200, 40_000])
def test_volumes_longer_than_one_stretch_and_wide_label_values(high: int) -> None:
    generator = np.random.default_rng(0)
    shape = (7, 120, VOXELS_AT_ONCE // 400)
    reference = np.where(generator.random(shape) < 0.9, 0, generator.integers(0, 3, shape)).astype(np.int32)
    reference[:, :60] = 0
    reference[reference == 2] = high
    prediction = np.roll(reference, 3, axis=2)
    counts = count_pairs(reference, prediction)
    for key in (1, high, (1, high)):
        assert counts.overlap(key) == _by_hand(reference, prediction, key, None)


def test_a_label_in_neither_map_has_no_dice() -> None:
    empty = count_pairs(np.zeros((2, 2, 2), np.int16), np.zeros((2, 2, 2), np.int16)).overlap(1)
    assert math.isnan(empty.dice)
    assert math.isnan(empty.iou)
    assert empty == Overlap(0, 0, 0, 8)


def test_a_label_in_one_map_scores_zero() -> None:
    one, none = np.ones((1, 2, 2), np.int16), np.zeros((1, 2, 2), np.int16)
    assert count_pairs(one, none).overlap(1).dice == 0
    assert count_pairs(none, one).overlap(1).dice == 0


def test_ignored_voxels_count_nowhere() -> None:
    reference = np.array([[[0, 1, 3, 3]]])
    prediction = np.array([[[1, 1, 1, 0]]])
    assert count_pairs(reference, prediction).overlap(1, ignore_label=3) == Overlap(tp=1, fp=1, fn=0, tn=0)


def test_shapes_must_agree() -> None:
    with pytest.raises(SegflowError, match="shape"):
        count_pairs(np.zeros((2, 2, 2), int), np.zeros((2, 2, 3), int))


def test_maps_must_hold_whole_numbers() -> None:
    with pytest.raises(SegflowError, match="whole numbers"):
        count_pairs(np.zeros((2, 2, 2)), np.zeros((2, 2, 2), int))
