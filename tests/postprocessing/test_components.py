"""What each step does to a label map."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from segflow.core.postprocessing import PostprocessingStep
from segflow.evaluation.label_maps import boxes_of_labels
from segflow.postprocessing.components import apply_step, postprocess_label_map

SPACING = (2.0, 1.0, 1.0)


def _largest_by_hand(label_map: np.ndarray, labels: tuple[int, ...]) -> np.ndarray:
    mask = np.isin(label_map, labels)
    components, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(mask, components, range(1, count + 1))
    keep = [i + 1 for i, size in enumerate(sizes) if size == max(sizes)]
    return np.where(mask & ~np.isin(components, keep), 0, label_map)


@pytest.mark.parametrize("labels", [(1,), (2,), (1, 2), (1, 2, 3), (7,)])
def test_the_largest_component_agrees_with_scipy(labels: tuple[int, ...]) -> None:
    for seed in range(5):
        noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(8, 12, 10)), 1)
        label_map = np.digitize(noise, np.quantile(noise, [0.7, 0.85, 0.95])).astype(np.int16)
        found = postprocess_label_map(label_map, [PostprocessingStep("keep_largest", labels)], SPACING)
        np.testing.assert_array_equal(found, _largest_by_hand(label_map, labels))
        assert found.dtype == label_map.dtype


def test_components_as_large_as_the_largest_all_stay() -> None:
    label_map = np.zeros((3, 9, 9), np.uint8)
    label_map[1, 0, 0:2] = label_map[1, 4, 0:2] = label_map[1, 8, 8] = 1
    found = postprocess_label_map(label_map, [PostprocessingStep("keep_largest", (1,))], SPACING)
    assert found.sum() == 4
    assert found[1, 8, 8] == 0


def test_voxels_that_meet_at_a_corner_are_one_component() -> None:
    label_map = np.zeros((3, 3, 3), np.uint8)
    label_map[0, 0, 0] = label_map[1, 1, 1] = 1
    np.testing.assert_array_equal(
        postprocess_label_map(label_map, [PostprocessingStep("keep_largest", (1,))], SPACING), label_map
    )


def test_other_labels_and_the_input_are_left_alone() -> None:
    label_map = np.zeros((2, 6, 6), np.uint8)
    label_map[0, 0, :3] = label_map[1, 5, 5] = 1
    label_map[0, 5, 0] = 2
    before = label_map.copy()
    found = postprocess_label_map(label_map, [PostprocessingStep("keep_largest", (1,))], SPACING)
    np.testing.assert_array_equal(label_map, before)
    assert found[0, 5, 0] == 2
    assert found[1, 5, 5] == 0


def test_small_components_go_by_their_volume_in_mm3() -> None:
    label_map = np.zeros((2, 8, 8), np.uint8)
    label_map[0, 0, :3] = 1  # 6 mm³
    label_map[0, 4, :2] = 1  # 4 mm³
    step = PostprocessingStep("remove_small", (1,), min_volume_mm3=6.0)
    found = postprocess_label_map(label_map, [step], SPACING)
    assert found[0, 0].sum() == 3
    assert found[0, 4].sum() == 0
    flat = postprocess_label_map(label_map[:1], [step], (999.0, 1.0, 2.0))  # mm² in the plane: 6 and 4
    np.testing.assert_array_equal(flat, found[:1])


def test_holes_are_filled_with_the_label_and_only_where_there_is_background() -> None:
    label_map = np.zeros((5, 7, 7), np.uint8)
    label_map[1:4, 1:6, 1:6] = 1
    label_map[2, 2:5, 2:5] = 0
    label_map[2, 3, 3] = 2
    found = postprocess_label_map(label_map, [PostprocessingStep("fill_holes", (1,), fill_with=1)], SPACING)
    assert found[2, 3, 3] == 2
    assert (found[2, 2:5, 2:5] == 1).sum() == 8
    assert found[0].sum() == 0


def test_a_ring_is_a_hole_in_a_plane_but_not_in_a_volume() -> None:
    ring = np.ones((1, 5, 5), np.uint8)
    ring[0, 2, 2] = 0
    step = PostprocessingStep("fill_holes", (1,), fill_with=1)
    assert postprocess_label_map(ring, [step], (999.0, 1.0, 1.0))[0, 2, 2] == 1
    volume = np.pad(ring, ((1, 1), (0, 0), (0, 0)))
    assert postprocess_label_map(volume, [step], SPACING)[1, 2, 2] == 0


def test_a_step_says_where_it_worked() -> None:
    label_map = np.zeros((6, 6, 6), np.uint8)
    label_map[2, 3, 1] = label_map[4, 3, 5] = 3
    step = PostprocessingStep("remove_small", (3,), min_volume_mm3=100.0)
    box, part = apply_step(label_map, step, SPACING, boxes_of_labels(label_map))
    assert (box.start, box.stop) == ((2, 3, 1), (5, 4, 6))
    assert part.shape == box.shape
    assert part.sum() == 0
    box, part = apply_step(label_map, PostprocessingStep("keep_largest", (9,)), SPACING)
    assert part.size == 0
