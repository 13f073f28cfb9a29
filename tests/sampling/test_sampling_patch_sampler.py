"""The box of a patch: bounds, foreground, ignore label, 2D (recipe 6.1, 6.2)."""

from __future__ import annotations

import numpy as np
import pytest
from fake_store import FakeCase, make_case

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.sampling.patch_sampler import PatchSampler, forced_foreground_flags


@pytest.mark.parametrize(
    ("batch_size", "forced"),
    [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2), (8, 3), (9, 3), (10, 3), (12, 4), (16, 5)],
)
def test_the_last_samples_are_forced_as_in_the_recipe(batch_size, forced):
    flags = forced_foreground_flags(batch_size, 0.33)
    assert flags == (False,) * (batch_size - forced) + (True,) * forced


def empty_case(shape):
    return FakeCase(np.zeros((1, *shape), np.float32), np.zeros(shape, np.int16))


@pytest.mark.parametrize(("extent", "lowest", "highest"), [(300, -39, 134), (100, -53, -52)])
def test_bounds_of_the_start_are_those_of_the_recipe(extent, lowest, highest):
    sampler = PatchSampler((205, 1, 1), (128, 1, 1))
    case, generator = empty_case((extent, 1, 1)), np.random.default_rng(0)
    starts = {sampler(case, generator, False).start[0] for _ in range(3000)}
    assert (min(starts), max(starts)) == (lowest, highest)
    assert len(starts) == highest - lowest + 1


def test_boxes_always_have_the_loader_patch_size_even_when_the_case_is_smaller():
    sampler = PatchSampler((30, 40, 50), (20, 30, 40))
    case, generator = make_case((8, 9, 10)), np.random.default_rng(1)
    for forced in (False, True):
        for _ in range(50):
            assert sampler(case, generator, forced).shape == (30, 40, 50)


def test_forced_patches_are_centred_on_foreground_and_choose_classes_uniformly():
    case, generator = make_case(), np.random.default_rng(2)
    sampler = PatchSampler((6, 6, 6), (6, 6, 6))
    counts = {1: 0, 2: 0}
    for _ in range(2000):
        box = sampler(case, generator, True)
        counts[int(case.label[tuple(a + 3 for a in box.start)])] += 1
    assert abs(counts[1] / 2000 - 0.5) < 0.05


def test_forced_patches_reach_beyond_the_far_border_but_not_beyond_the_near_one():
    label = np.zeros((20, 20, 20), np.int16)
    label[0, 0, 0] = 1
    near = FakeCase(np.zeros((1, 20, 20, 20), np.float32), label)
    far = FakeCase(near.image, label[::-1, ::-1, ::-1])
    sampler = PatchSampler((10, 10, 10), (8, 8, 8))
    assert sampler(near, np.random.default_rng(0), True).start == (-1, -1, -1)
    assert sampler(far, np.random.default_rng(0), True).start == (14, 14, 14)


def test_a_case_without_foreground_gets_a_random_patch():
    sampler = PatchSampler((6, 6, 6), (6, 6, 6))
    case, generator = empty_case((30, 30, 30)), np.random.default_rng(0)
    starts = np.array([sampler(case, generator, True).start for _ in range(500)])
    assert starts.min() == 0
    assert starts.max() == 24


def test_with_an_ignore_label_free_patches_are_centred_on_annotated_voxels():
    annotated = [(5, 6, 7), (15, 16, 17)]
    case = FakeCase(
        np.zeros((1, 30, 30, 30), np.float32),
        np.zeros((30, 30, 30), np.int16),
        {1: [(10, 10, 10)], (-1, 0, 1): annotated},
    )
    sampler = PatchSampler((8, 8, 8), (8, 8, 8))
    generator = np.random.default_rng(0)
    free = {tuple(a + 4 for a in sampler(case, generator, False).start) for _ in range(100)}
    forced = {tuple(a + 4 for a in sampler(case, generator, True).start) for _ in range(100)}
    assert free == set(annotated)
    assert forced == {(10, 10, 10)}


def test_annotated_voxels_serve_as_foreground_where_there_is_no_other():
    case = FakeCase(
        np.zeros((1, 30, 30, 30), np.float32), np.zeros((30, 30, 30), np.int16), {1: [], (-1, 0, 1): [(9, 9, 9)]}
    )
    sampler = PatchSampler((8, 8, 8), (8, 8, 8))
    assert sampler(case, np.random.default_rng(0), True).start == (5, 5, 5)


def test_region_keys_are_sampled_like_labels():
    case = FakeCase(
        np.zeros((1, 30, 30, 30), np.float32),
        np.zeros((30, 30, 30), np.int16),
        {(1, 2): [(9, 9, 9)], (2,): [(12, 12, 12)]},
    )
    sampler = PatchSampler((8, 8, 8), (8, 8, 8))
    generator = np.random.default_rng(0)
    assert {sampler(case, generator, True).start[0] for _ in range(50)} == {5, 8}


def test_a_2d_patch_is_one_slice_and_a_forced_one_is_the_slice_of_the_voxel():
    case, generator = make_case(), np.random.default_rng(0)
    sampler = PatchSampler((10, 12), (8, 8))
    free = [sampler(case, generator, False) for _ in range(300)]
    assert {box.shape for box in free} == {(1, 10, 12)}
    assert {box.start[0] for box in free} == set(range(20))
    forced = {sampler(case, generator, True).start[0] for _ in range(300)}
    assert forced == {5, 6, 7, 8, 9, 19}


def test_class_weights_by_name_change_what_is_chosen():
    case, generator = make_case(), np.random.default_rng(0)
    labels = Labels({"background": 0, "organ": 1, "tumour": 2})
    sampler = PatchSampler((6, 6, 6), (6, 6, 6), class_weights={"organ": 0.25}, labels=labels)
    slices = [sampler(case, generator, True).start[0] + 3 for _ in range(2000)]
    assert abs(np.mean([z == 19 for z in slices]) - 0.8) < 0.03


def test_a_weight_for_an_unknown_label_is_refused():
    with pytest.raises(SegflowError, match=r"tumor.*expected.*tumour"):
        PatchSampler(
            (6, 6),
            (6, 6),
            class_weights={"tumor": 1.0},
            labels=Labels({"background": 0, "tumour": 1}),
        )


def test_jitter_moves_the_voxel_within_the_final_patch_and_never_out_of_it():
    case = FakeCase(np.zeros((1, 60, 60, 60), np.float32), np.zeros((60, 60, 60), np.int16), {1: [(30, 30, 30)]})
    sampler = PatchSampler((20, 20, 20), (10, 12, 9), foreground_jitter=1.0)
    generator = np.random.default_rng(0)
    seen = [set(), set(), set()]
    for _ in range(2000):
        start = sampler(case, generator, True).start
        for axis, final in enumerate((10, 12, 9)):
            seen[axis].add(30 - (start[axis] + 10 - final // 2))
    assert seen == [set(range(10)), set(range(12)), set(range(9))]


@pytest.mark.parametrize(
    "wrong", [{"foreground_fraction": 1.2}, {"foreground_jitter": -0.1}, {"class_weights": {"a": -1.0}}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(SegflowError):
        PatchSampler((6, 6, 6), (6, 6, 6), **wrong)
