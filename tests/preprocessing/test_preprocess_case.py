from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from segflow.core.case import Case
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.labels import Labels
from segflow.core.plans import Plans
from segflow.core.preprocessed_case import SpatialRecord
from segflow.execution.machine import THREADS_VARIABLE, threads_granted
from segflow.preprocessing import preprocess_case as door
from segflow.preprocessing.preprocess_case import preprocess_case

LABELS = Labels.from_json({"background": 0, "one": 1, "two": 2})


def make_case(shape: tuple[int, ...] = (8, 12, 10), spacing: tuple[float, float, float] = (2.0, 1.0, 1.5)) -> Case:
    random = np.random.default_rng(0)
    image = np.zeros((1, *shape), np.float32)
    image[0, 1:-1, 2:-1, 1:-2] = random.uniform(1, 100, size=tuple(n - 3 + (a == 0) for a, n in enumerate(shape)))
    label = np.zeros(shape, np.int16)
    label[2:5, 4:8, 3:6] = 1
    label[5:7, 4:8, 3:6] = 2
    return Case("case_7", image, label, Geometry(spacing, {"origin": [1, 2, 3]}))


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.5), (9.0, 1.0, 1.5)])
def test_the_arrays_do_not_depend_on_threads(
    make_plans: Callable[..., Plans], monkeypatch: pytest.MonkeyPatch, spacing: tuple[float, float, float]
) -> None:
    monkeypatch.setattr(door, "_LARGE", 0)
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    plans, results = make_plans((1.0, 1.0, 1.0)), []
    for threads in (1, 2, 5):
        with threads_granted(threads):
            results.append(
                preprocess_case(make_case((40, 30, 28), spacing), plans, plans.configuration("test"), LABELS)
            )
    one, *others = results
    for other in others:
        assert one.image.tobytes() == other.image.tobytes()
        assert np.array_equal(one.label, other.label)
        for key, voxels in one.foreground_locations.items():
            assert len(voxels) > 0
            assert np.array_equal(voxels, other.foreground_locations[key])


@pytest.mark.parametrize("axis_order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_the_record_leads_back(make_plans: Callable[..., Plans], axis_order: tuple[int, ...]) -> None:
    case = make_case()
    plans = make_plans((1.0, 1.0, 1.0), axis_order=axis_order)
    result = preprocess_case(case, plans, plans.configuration("test"), LABELS)
    box = Box((1, 2, 1), (7, 11, 8))
    spatial = result.spatial
    assert spatial.crop == Box(*(tuple(side[a] for a in axis_order) for side in (box.start, box.stop)))
    assert spatial.spacing_transposed == tuple(case.geometry.spacing[a] for a in axis_order)
    assert spatial.spacing_plan == (1.0, 1.0, 1.0)
    assert spatial.shape_original == (8, 12, 10)
    expected = tuple(round(n * s) for n, s in zip(spatial.shape_cropped, spatial.spacing_transposed, strict=True))
    assert spatial.shape_plan == expected == result.image.shape[1:] == result.label.shape
    assert SpatialRecord.from_json(spatial.to_json()) == spatial
    assert set(result.foreground_locations) == {1, 2}
    for key, voxels in result.foreground_locations.items():
        assert (result.label[tuple(voxels.T)] == key).all()


def test_normalisation_comes_before_resampling_and_after_cropping(make_plans: Callable[..., Plans]) -> None:
    case = make_case(spacing=(1.0, 1.0, 1.0))
    plans = make_plans()
    result = preprocess_case(case, plans, plans.configuration("test"), LABELS)
    cropped = case.image[0, 1:7, 2:11, 1:8]
    np.testing.assert_allclose(result.image[0], (cropped - cropped.mean()) / cropped.std(), atol=1e-5)


def test_a_2d_configuration_keeps_the_spacing_through_the_slices(make_plans: Callable[..., Plans]) -> None:
    case = make_case(spacing=(7.0, 1.0, 1.0))
    plans = make_plans((0.5, 0.5))
    result = preprocess_case(case, plans, plans.configuration("test"), LABELS)
    assert result.spatial.spacing_plan == (7.0, 0.5, 0.5)
    assert result.image.shape == (1, 6, 18, 14)


def test_outside_the_mask_the_label_is_minus_one_and_the_image_untouched(make_plans: Callable[..., Plans]) -> None:
    case = make_case(spacing=(1.0, 1.0, 1.0))
    case.image[0, 1, 2:5, 1:4] = 0  # a notch in a corner of the box
    plans = make_plans(masks=[True])
    result = preprocess_case(case, plans, plans.configuration("test"), LABELS)
    notch = np.zeros(result.label.shape, bool)
    notch[0, :3, :3] = True
    assert np.array_equal(result.label == -1, notch)
    assert not result.image[0][notch].any()
    np.testing.assert_allclose(result.image[0][~notch].mean(), 0, atol=1e-5)


def test_a_case_without_label_has_no_locations(make_plans: Callable[..., Plans]) -> None:
    plans = make_plans(masks=[True])
    result = preprocess_case(replace(make_case(), label=None), plans, plans.configuration("test"), LABELS)
    assert result.label is None
    assert not result.foreground_locations


def test_the_case_stays_as_it_was_unless_allowed(make_plans: Callable[..., Plans]) -> None:
    case = make_case()
    before = case.image.copy(), case.label.copy()
    plans = make_plans((1.0, 1.0, 1.0))
    kept = preprocess_case(case, plans, plans.configuration("test"), LABELS)
    assert np.array_equal(case.image, before[0])
    assert np.array_equal(case.label, before[1])
    lost = preprocess_case(case, plans, plans.configuration("test"), LABELS, may_overwrite=True)
    assert np.array_equal(kept.image, lost.image)
    assert np.array_equal(kept.label, lost.label)


def test_an_all_zero_image_and_an_all_background_label_pass(make_plans: Callable[..., Plans]) -> None:
    case = Case("empty", np.zeros((1, 4, 5, 6), np.float32), np.zeros((4, 5, 6), np.int16), Geometry((1.0, 1.0, 1.0)))
    plans = make_plans()
    result = preprocess_case(case, plans, plans.configuration("test"), LABELS)
    assert result.image.shape == (1, 4, 5, 6)
    assert np.isfinite(result.image).all()
    assert all(len(voxels) == 0 for voxels in result.foreground_locations.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.ones((2, 8, 12, 10), np.float32)}, "number of channels"),
        ({"label": np.zeros((8, 12, 9), np.int16)}, "differ in shape"),
        ({"geometry": Geometry((0.0, 1.0, 1.0))}, "spacing"),
        ({"geometry": Geometry((1.0, -1.0, 1.0))}, "spacing"),
        ({"image": np.full((1, 8, 12, 10), np.nan, np.float32)}, "not numbers"),
        ({"geometry": Geometry((0.01, 1.0, 1.0))}, "nothing would be left"),
    ],
)
def test_bad_cases_are_refused_by_name(make_plans: Callable[..., Plans], change: dict, message: str) -> None:
    plans = make_plans()
    with pytest.raises(SegflowError, match=f"case 'case_7'.*{message}"):
        preprocess_case(replace(make_case(), **change), plans, plans.configuration("test"), LABELS)


def test_no_resampling_keeps_the_cropped_grid(make_plans: Callable[..., Plans]) -> None:
    plans = make_plans((0.5, 0.5, 0.5), method="no_resampling_hack")
    result = preprocess_case(make_case(), plans, plans.configuration("test"), LABELS)
    assert result.spatial.shape_plan == result.spatial.shape_cropped == result.label.shape
