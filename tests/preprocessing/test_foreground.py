from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.core.labels import Labels
from segflow.preprocessing import foreground
from segflow.preprocessing.foreground import draw_foreground_locations, location_keys

KEYS = (1, (1, 2), (3,), 4, (-1, 0, 1, 2))


def by_the_book(label: np.ndarray, keys) -> dict:  # type: ignore[no-untyped-def]
    """Recipe 4.4 word for word: all voxels of a key in the order of its labels, one draw for each key."""
    random = np.random.RandomState(1234)
    result = {}
    for key in keys:
        values = key if isinstance(key, tuple) else (key,)
        voxels = np.concatenate([np.argwhere(label == value) for value in values])
        total = len(voxels)
        wanted = max(min(10_000, total), -(-total // 100))
        result[key] = voxels[random.choice(total, wanted, replace=False)] if total else voxels
    return result


@pytest.mark.parametrize("voxels_at_once", [1, 100, 2000])
@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 12)] * 3), seed=st.integers(0, 2**31))
def test_draws_equal_the_recipe(voxels_at_once: int, shape: tuple[int, ...], seed: int) -> None:
    label = np.random.default_rng(seed).integers(-1, 4, size=shape).astype(np.int16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreground, "_VOXELS_AT_ONCE", voxels_at_once)
        expected, found = by_the_book(label, KEYS), draw_foreground_locations(label, KEYS)
    assert list(found) == list(KEYS)
    for key in KEYS:
        assert np.array_equal(found[key], expected[key])


def test_a_large_structure_gives_one_voxel_in_a_hundred() -> None:
    label = np.ones((12, 300, 300), np.int16)
    found = draw_foreground_locations(label, [1])[1]
    assert len(found) == 10_800
    assert np.array_equal(found, by_the_book(label, [1])[1])
    assert len(np.unique(found, axis=0)) == len(found)


def test_a_small_structure_gives_all_its_voxels() -> None:
    label = np.zeros((4, 5, 6), np.int16)
    label[1:3, 2:4, 3] = 2
    found = draw_foreground_locations(label, [1, 2])
    assert found[1].shape == (0, 3)
    assert sorted(map(tuple, found[2].tolist())) == [(z, y, 3) for z in (1, 2) for y in (2, 3)]


def test_keys_follow_the_labels_of_the_dataset() -> None:
    plain = Labels.from_json({"background": 0, "liver": 1, "tumour": 2})
    ignoring = Labels.from_json({"background": 0, "liver": 1, "tumour": 2, "ignore": 3})
    regions = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    assert location_keys(plain) == (1, 2)
    assert location_keys(ignoring) == (1, 2, (-1, 0, 1, 2))
    assert location_keys(regions) == ((1, 2), 2)
