from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segflow.core.configuration_plan import ResamplingPlan
from segflow.core.errors import SegflowError
from segflow.preprocessing.interpolation import axis_bands, axis_matrix, linear_taps, nearest_indices
from segflow.preprocessing.resampling import LINEAR, NONE, SPLINE, resample_image, resample_label, separate_axis

ISOTROPIC = (1.0, 1.0, 1.0)
CUBIC = ResamplingPlan(SPLINE, {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None})
FIRST = ResamplingPlan(SPLINE, {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None})
LABEL = ResamplingPlan(SPLINE, {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None})

grids = st.tuples(
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.sampled_from([0.4, 0.5, 0.75, 1.0, 1.0, 1.3, 2.0, 3.0])] * 3),
    st.integers(0, 2**31),
).map(lambda g: (g[0], tuple(max(1, round(n * f)) for n, f in zip(g[0], g[1], strict=True)), g[2]))


def line(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("plan", "values", "size", "expected"),
    [
        (CUBIC, [0, 0, 1, 1], 8, [0.02602201, 0, 0, 0.21568512, 0.78431488, 1, 1, 0.97397799]),
        (FIRST, [0, 0, 1, 1], 8, [0, 0, 0, 0.25, 0.75, 1, 1, 1]),
        (FIRST, [0, 1, 4, 9, 16, 25], 4, [0.25, 3.25, 10.75, 22.75]),
        (CUBIC, [0, 1, 4, 9, 16, 25], 4, [0.10902588, 3.04037412, 10.44182621, 23.37277215]),
    ],
)
def test_conformance_b1(plan: ResamplingPlan, values: list[float], size: int, expected: list[float]) -> None:
    result = resample_image(line(values), (1, 1, size), ISOTROPIC, ISOTROPIC, plan)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.ravel(), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 0, 2, 2], [0, 0, 0, 0, 2, 2, 2, 2]), ([0, 0, 2, 2], [0, 2]), ([0, 1, 2, 2], [1, 2])],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_conformance_b2(values: list[int], expected: list[int], axis: int) -> None:
    label = np.array(values, np.int16).reshape([-1 if a == axis else 1 for a in range(3)])
    shape = tuple(len(expected) if a == axis else 1 for a in range(3))
    assert resample_label(label, shape, ISOTROPIC, ISOTROPIC, LABEL).ravel().tolist() == expected


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_conformance_b3_slices_are_taken_from_the_nearest(axis: int) -> None:
    spacing = tuple(5.0 if a == axis else 1.0 for a in range(3))
    source = np.moveaxis(np.arange(3, dtype=np.float32)[:, None, None] + np.zeros((1, 2, 2), np.float32), 0, axis)
    shape = tuple(5 if a == axis else 2 for a in range(3))
    expected = np.moveaxis(np.array([0, 0, 1, 2, 2])[:, None, None] + np.zeros((1, 2, 2)), 0, axis)
    assert np.array_equal(resample_image(source[None], shape, spacing, spacing, CUBIC)[0], expected)
    assert np.array_equal(resample_label(source.astype(np.int16), shape, spacing, spacing, LABEL), expected)


@pytest.mark.parametrize(
    ("spacing", "new_spacing", "force", "axis"),
    [
        ((3.0, 1, 1), (1, 1, 1), None, None),  # B11: strictly more than 3
        ((3.01, 1, 1), (1, 1, 1), None, 0),
        ((1, 1, 1), (1, 4, 1), None, 1),
        ((5, 5, 1), (1, 1, 1), None, None),
        ((5, 5, 1), (5, 1, 1), None, None),  # the first anisotropic spacing decides, even against
        ((1, 1, 2), (1, 1, 1), True, 2),
        ((9, 1, 1), (9, 1, 1), False, None),
        ((999, 1, 1), (999, 1, 1), None, 0),  # B14
    ],
)
def test_separate_axis(spacing: Any, new_spacing: Any, force: bool | None, axis: int | None) -> None:
    assert separate_axis(spacing, new_spacing, force) == axis


@settings(max_examples=60, deadline=None)
@given(grids, st.sampled_from([1, 3]))
def test_images_equal_scikit_image(grid: Any, order: int) -> None:
    resize = pytest.importorskip("skimage.transform").resize
    shape, new_shape, seed = grid
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    plan = CUBIC if order == 3 else FIRST
    expected = resize(image.astype(float), new_shape, order, mode="edge", anti_aliasing=False, clip=True)
    found = resample_image(image[None], new_shape, ISOTROPIC, ISOTROPIC, plan)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(grids)
def test_separate_slices_are_clipped_to_their_own_range(grid: Any) -> None:
    shape, new_shape, seed = grid
    spacing = (5.0, 1.0, 1.0)
    image = np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)
    found = resample_image(image, new_shape, spacing, spacing, CUBIC)[0]
    for target, index in zip(found, nearest_indices(shape[0], new_shape[0]), strict=True):
        assert target.min() >= image[0, index].min()
        assert target.max() <= image[0, index].max()


@settings(max_examples=60, deadline=None)
@given(grids, st.sampled_from([ISOTROPIC, (5.0, 1.0, 1.0), (1.0, 1.0, 5.0)]))
def test_labels_equal_the_argmax_of_interpolated_indicators(grid: Any, spacing: Any) -> None:
    shape, new_shape, seed = grid
    label = np.random.default_rng(seed).integers(-1, 5, size=shape).astype(np.int16)
    found = resample_label(label, new_shape, spacing, spacing, LABEL)
    values = np.unique(label)
    scores = np.stack(
        [
            resample_image((label == v).astype(np.float32)[None], new_shape, spacing, spacing, FIRST)[0].astype(float)
            for v in values
        ]
    )
    ranked = np.sort(scores, axis=0)
    clear = np.ones(new_shape, bool) if len(values) == 1 else ranked[-1] - ranked[-2] > 1e-5
    assert found.dtype == np.int16
    if shape != new_shape:
        assert np.array_equal(found[clear], values[scores.argmax(0)][clear])


def test_the_nearest_label_wins_a_tie_only_if_it_is_tied() -> None:
    block = np.array([3, 1, 1, 1, 2, 2, 2, 3], np.int16).reshape(2, 2, 2)
    found = resample_label(block, (1, 1, 1), ISOTROPIC, ISOTROPIC, LABEL)
    assert found.item() == 1  # 1 and 2 have three corners each; the nearest voxel is a 3


@pytest.mark.parametrize("plan", [CUBIC, FIRST, ResamplingPlan(LINEAR), ResamplingPlan(NONE)])
def test_an_equal_grid_is_left_alone(plan: ResamplingPlan) -> None:
    image = np.zeros((2, 3, 4, 5), np.float32)
    assert resample_image(image, (3, 4, 5), ISOTROPIC, ISOTROPIC, plan) is image


def test_no_resampling_leaves_the_grid_as_it_is() -> None:
    image, label = np.zeros((2, 3, 4, 5), np.float32), np.zeros((3, 4, 5), np.int16)
    plan = ResamplingPlan(NONE)
    assert resample_image(image, (6, 8, 10), ISOTROPIC, (0.5, 0.5, 0.5), plan) is image
    assert resample_label(label, (6, 8, 10), ISOTROPIC, (0.5, 0.5, 0.5), plan) is label


@settings(max_examples=40, deadline=None)
@given(grids)
def test_linear_resampling_equals_torch(grid: Any) -> None:
    torch = pytest.importorskip("torch")
    shape, new_shape, seed = grid
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    found = resample_image(image, new_shape, ISOTROPIC, ISOTROPIC, ResamplingPlan(LINEAR))
    expected = torch.nn.functional.interpolate(torch.from_numpy(image)[None], new_shape, mode="trilinear")[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_linear_resampling_of_labels_gives_ties_to_the_smallest() -> None:
    label = np.array([5, 2], np.int16).reshape(1, 1, 2)
    assert resample_label(label, (1, 1, 1), ISOTROPIC, ISOTROPIC, ResamplingPlan(LINEAR)).item() == 2


def test_many_labels_far_apart_survive() -> None:
    label = np.repeat(np.array([0, 300, 7, 32000], np.int16), 4).reshape(16, 1, 1)
    found = resample_label(label, (8, 1, 1), ISOTROPIC, ISOTROPIC, LABEL)
    assert sorted(set(found.ravel().tolist())) == [0, 7, 300, 32000]


def test_bad_plans_and_grids_are_refused() -> None:
    image, label = np.zeros((1, 2, 2, 2), np.float32), np.zeros((2, 2, 2), np.int16)
    with pytest.raises(SegflowError, match="resampling that segflow does not have"):
        resample_image(image, (3, 3, 3), ISOTROPIC, ISOTROPIC, ResamplingPlan("os.system"))
    with pytest.raises(SegflowError, match="nothing would be left"):
        resample_image(image, (0, 3, 3), ISOTROPIC, ISOTROPIC, CUBIC)
    with pytest.raises(SegflowError, match="label interpolation"):
        resample_label(label, (3, 3, 3), ISOTROPIC, ISOTROPIC, ResamplingPlan(SPLINE, {"order": 3}))


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([0, 1, 3]))
@settings(max_examples=50, deadline=None)
def test_rows_of_an_axis_matrix_sum_to_one(size: int, new_size: int, order: int) -> None:
    matrix = axis_matrix(size, new_size, order)
    assert matrix.shape == (new_size, size)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
    assert not np.any((matrix != 0) & (np.abs(matrix) < 1e-8))
    whole = np.zeros_like(matrix)
    for band in axis_bands(size, new_size, order):
        whole[band.rows, band.columns] = band.matrix
    assert np.array_equal(whole, matrix)
    if order == 1:
        taps = linear_taps(size, new_size)
        identity = np.eye(size)
        expected = identity[taps.low] * (1 - taps.weight)[:, None] + identity[taps.high] * taps.weight[:, None]
        np.testing.assert_allclose(matrix, expected, atol=1e-6)
