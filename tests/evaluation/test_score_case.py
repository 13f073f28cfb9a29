"""All scores of a case: units, empty labels, regions, the ignore label, lesions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.evaluation.evaluate_settings import ScoreSettings
from segflow.evaluation.lesions import LesionCounts, count_lesions
from segflow.evaluation.score_case import score_case

LABELS = Labels({"background": 0, "liver": 1, "tumour": 2})
SPACING = (2.0, 1.0, 0.5)


def _maps() -> tuple[np.ndarray, np.ndarray]:
    reference = np.zeros((6, 10, 10), np.int16)
    reference[1:4, 2:8, 2:8] = 1
    reference[2, 4:6, 4:6] = 2
    prediction = np.roll(reference, 1, axis=1)
    return reference, prediction


def test_volumes_are_in_mm3_and_signed() -> None:
    reference, prediction = _maps()
    prediction[0, 0, 0] = 2
    scores = score_case(reference, prediction, SPACING, LABELS, ScoreSettings())
    assert scores[2]["volume_difference_mm3"] == pytest.approx(1.0)  # one voxel of 2 × 1 × 0.5 mm more
    assert scores[2]["volume_difference"] == pytest.approx(0.25)
    assert scores[1]["volume_difference_mm3"] == 0


def test_a_2d_image_is_scored_in_its_plane() -> None:
    reference, prediction = np.zeros((2, 1, 12, 12), np.int16)
    reference[0, 3:8, 3:8] = 1
    prediction[0, 3:8, 3:9] = 1
    scores = score_case(reference, prediction, (999.0, 1.0, 2.0), LABELS, ScoreSettings())
    assert scores[1]["hd95_mm"] == pytest.approx(2.0)
    assert scores[1]["volume_difference_mm3"] == pytest.approx(5 * 2.0)


def test_surfaces_and_lesions_only_where_asked_for() -> None:
    reference, prediction = _maps()
    scores = score_case(reference, prediction, SPACING, LABELS, ScoreSettings(surface=False, lesions=False))
    assert not {"hd95_mm", "surface_dice", "lesion_f1"} & set(scores[1])
    assert scores[1]["Dice"] == score_case(reference, prediction, SPACING, LABELS, ScoreSettings())[1]["Dice"]


@pytest.mark.parametrize(
    ("both_empty", "score", "distance"), [("nan", math.nan, math.nan), ("one", 1.0, 0.0), ("zero", 0.0, math.nan)]
)
def test_a_label_in_neither_map(both_empty: str, score: float, distance: float) -> None:
    empty = np.zeros((3, 4, 5), np.int16)
    found = score_case(empty, empty, SPACING, LABELS, ScoreSettings(both_empty=both_empty))[1]
    for name in ("Dice", "IoU", "surface_dice", "lesion_f1"):
        np.testing.assert_equal(found[name], score)
    for name in ("hd95_mm", "mean_surface_distance_mm"):
        np.testing.assert_equal(found[name], distance)
    assert math.isnan(found["volume_difference"])


@pytest.mark.parametrize("side", ["reference", "prediction"])
@pytest.mark.parametrize(
    ("one_empty", "distance"), [("inf", math.inf), ("diagonal", math.sqrt(6**2 + 4**2 + 2.5**2)), ("nan", math.nan)]
)
def test_a_label_in_one_map_only(side: str, one_empty: str, distance: float) -> None:
    empty, full = np.zeros((2, 3, 4, 5), np.int16)
    full[1, 1:3, 1:3] = 1
    reference, prediction = (full, empty) if side == "reference" else (empty, full)
    found = score_case(reference, prediction, SPACING, LABELS, ScoreSettings(one_empty=one_empty))[1]
    assert [found[n] for n in ("Dice", "IoU", "surface_dice", "lesion_f1")] == [0, 0, 0, 0]
    np.testing.assert_allclose(found["hd95_mm"], distance)
    np.testing.assert_allclose(found["mean_surface_distance_mm"], distance)


def test_regions_are_scored_as_unions() -> None:
    labels = Labels.from_json({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2])
    reference, prediction = _maps()
    scores = score_case(reference, prediction, SPACING, labels, ScoreSettings())
    whole = Labels({"background": 0, "whole": 1})
    alone = score_case((reference > 0).astype(int), (prediction > 0).astype(int), SPACING, whole, ScoreSettings())
    assert scores[(1, 2)] == alone[1]
    assert scores[2]["n_ref"] == 4


def test_what_lies_under_the_ignore_label_changes_nothing() -> None:
    labels = Labels.from_json({"background": 0, "liver": 1, "tumour": 2, "ignore": 3})
    reference, prediction = _maps()
    reference[:, :, 7:] = 3
    scores = score_case(reference, prediction, SPACING, labels, ScoreSettings())
    scribbled = prediction.copy()
    scribbled[:, :, 7:] = np.random.default_rng(0).integers(0, 3, scribbled[:, :, 7:].shape)
    assert score_case(reference, scribbled, SPACING, labels, ScoreSettings()) == scores
    assert 3 not in scores


def test_lesions_are_counted_as_objects() -> None:
    reference, prediction = np.zeros((2, 4, 12, 12), bool)
    reference[1, 1:3, 1:3] = True  # found
    reference[1, 6:8, 6:8] = reference[2, 8, 8] = True  # one lesion over a corner, found
    reference[3, 11, 0] = True  # missed
    prediction[1, 2, 2] = prediction[2, 8, 8] = True
    prediction[0, 0, 11] = True  # false
    assert count_lesions(reference, prediction) == LesionCounts(found=2, missed=1, false=1)
    assert count_lesions(reference, prediction).f1 == pytest.approx(4 / 6)


def test_a_lesion_may_have_to_be_covered_by_more_than_a_touch() -> None:
    reference, prediction = np.zeros((2, 1, 10, 10), bool)
    reference[0, :, :4] = True
    prediction[0, :, 3:7] = True  # a quarter of either
    assert count_lesions(reference, prediction, 0.2) == LesionCounts(1, 0, 0)
    assert count_lesions(reference, prediction, 0.3) == LesionCounts(0, 1, 1)


@pytest.mark.parametrize("wrong", [{"both_empty": "1"}, {"one_empty": "big"}, {"tolerance_mm": -1.0}])
def test_settings_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(SegflowError, match=next(iter(wrong))):
        ScoreSettings(**wrong)
