from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from most_likely import labels_from_probabilities

from segflow.core.case import Case
from segflow.core.configuration_plan import ResamplingPlan
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry, permute
from segflow.core.labels import Labels
from segflow.core.plans import Plans
from segflow.core.preprocessed_case import SpatialRecord
from segflow.preprocessing import device_slabs, restore, slabs
from segflow.preprocessing.preprocess_case import preprocess_case
from segflow.preprocessing.resampling import interpolation_of, resample_image
from segflow.preprocessing.restore import (
    restore_labels,
    restore_probabilities,
    written_type,
)

PLAIN = Labels.from_json({"background": 0, "one": 1, "two": 2})
REGIONS = Labels.from_json({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, [1, 2, 3])
GAPS = Labels.from_json({"background": 0, "one": 4, "two": 300})
FIRST = ResamplingPlan("resample_data_or_seg_to_shape", {"order": 1, "order_z": 0, "force_separate_z": None})

problems = st.tuples(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.sampled_from([0.5, 1.0, 1.0, 1.4, 2.0, 3.0])] * 3),
    st.permutations([0, 1, 2]),
    st.sampled_from([(1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 1.0, 6.0)]),
    st.integers(0, 2**31),
)


def make_record(shape_plan: tuple[int, ...], factors: Any, axis_order: Any, spacing: Any) -> SpatialRecord:
    cropped = tuple(max(1, round(n * f)) for n, f in zip(shape_plan, factors, strict=True))
    crop = Box((1, 0, 2), tuple(a + n for a, n in zip((1, 0, 2), cropped, strict=True)))
    transposed = tuple(stop + extra for stop, extra in zip(crop.stop, (0, 3, 1), strict=True))
    order = tuple(axis_order)
    original = tuple(transposed[order.index(axis)] for axis in range(3))
    return SpatialRecord(
        geometry=Geometry((1.0, 1.0, 1.0)),
        shape_original=original,
        axis_order=order,
        crop=crop,
        spacing_transposed=spacing,
        spacing_plan=tuple(s * n / m for s, n, m in zip(spacing, cropped, shape_plan, strict=True)),
        shape_plan=shape_plan,
    )


def unstreamed(logits: np.ndarray, spatial: SpatialRecord) -> np.ndarray:
    """All channels at full size, in plan axes: what the streamed way must agree with."""
    return resample_image(logits, spatial.shape_cropped, spatial.spacing_plan, spatial.spacing_transposed, FIRST)


def paste(inside: np.ndarray, spatial: SpatialRecord, outside: int = 0) -> np.ndarray:
    whole = np.full(spatial.shape_transposed, outside, inside.dtype)
    whole[spatial.crop.slices] = inside
    return whole.transpose(np.argsort(spatial.axis_order))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems, voxels=st.sampled_from([1, 200, 2**22]))
def test_streamed_labels_equal_the_argmax_of_everything(
    make_plans: Callable[..., Plans], problem: Any, voxels: int
) -> None:
    shape, factors, axis_order, spacing, seed = problem
    spatial = make_record(shape, factors, axis_order, spacing)
    logits = np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32)
    everything = unstreamed(logits, spatial)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, "_SLAB_VOXELS", voxels)
        found = restore_labels(torch.from_numpy(logits), spatial, make_plans().configuration("test"), PLAIN)
    ranked = np.sort(everything, axis=0)
    clear = paste(ranked[-1] - ranked[-2] > 1e-5, spatial, True)
    assert found.shape == spatial.shape_original
    assert found.dtype == np.uint8
    assert np.array_equal(found[clear], paste(everything.argmax(0), spatial)[clear])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_slab_height_does_not_change_a_voxel(
    make_plans: Callable[..., Plans], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    spatial = make_record((14, 20, 17), (2.0, 1.7, 2.3), (0, 1, 2), (1.0, 1.0, 1.0))
    logits = torch.randn((3, 14, 20, 17), generator=torch.Generator().manual_seed(0)).to(dtype)
    plan = make_plans().configuration("test")
    results = []
    for voxels in (1, 9000, 2**26):
        monkeypatch.setattr(slabs, "_SLAB_VOXELS", voxels)
        results.append(restore_labels(logits, spatial, plan, PLAIN))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems, labels=st.sampled_from([PLAIN, REGIONS]), half=st.booleans())
def test_the_way_on_an_accelerator_gives_the_same(
    make_plans: Callable[..., Plans], problem: Any, labels: Labels, half: bool
) -> None:
    """The accelerator's code also runs on a processor, where the two are compared."""
    shape, factors, axis_order, spacing, seed = problem
    spatial = make_record(shape, factors, axis_order, spacing)
    logits = torch.randn((3, *shape), generator=torch.Generator().manual_seed(seed % 2**31))
    logits = logits.half() if half else logits
    interpolation = interpolation_of(FIRST, spatial.spacing_plan, spatial.spacing_transposed)
    there = device_slabs.DeviceSlabResampler([(0, logits)], shape[0], spatial.shape_cropped, interpolation)
    here = slabs.SlabResampler.of(logits.numpy(), spatial.shape_cropped, interpolation)
    whole = (0, spatial.shape_cropped[0])
    for channel in range(3):
        expected = np.stack(list(here.channel(channel, whole)))
        found = there.channel(channel, whole)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), expected, atol=2e-3 if half else 1e-6)
    values = np.array((1, 2, 3) if labels.has_regions else (0, 1, 2), np.uint8)
    decide = restore._paint_on_device if labels.has_regions else restore._largest_on_device
    found_labels = decide(there, whole, values)
    expected_labels = restore_labels(logits, spatial, make_plans().configuration("test"), labels)
    inside = expected_labels.transpose(spatial.axis_order)[spatial.crop.slices]
    assert (found_labels == inside).mean() > 0.99 or found_labels.size < 100


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems, labels=st.sampled_from([PLAIN, REGIONS]), half=st.booleans(), cuts=st.sets(st.integers(1, 11)))
def test_slabs_of_logits_give_the_same_as_all_at_once(
    make_plans: Callable[..., Plans], problem: Any, labels: Labels, half: bool, cuts: set[int]
) -> None:
    shape, factors, axis_order, spacing, seed = problem
    spatial, plan = make_record(shape, factors, axis_order, spacing), make_plans().configuration("test")
    logits = torch.randn((3, *shape), generator=torch.Generator().manual_seed(seed % 2**31))
    logits = logits.half() if half else logits
    label_map = np.full(spatial.shape_original, 99, np.uint8)
    probabilities = np.full((3, *spatial.shape_original), np.nan, np.float32)
    restorer, released, order = restore.Restorer.to_image(spatial, plan, labels), [], list[int]()
    borders = [0, *sorted(cut for cut in cuts if cut < shape[0]), shape[0]]
    for start, stop in itertools.pairwise(borders):
        slab = logits[:, start:stop].clone()
        part = restorer.take(start, slab, lambda: released.append(1))
        if part is not None:
            for box, values in restore.placed_in_image(part.decide(), part.rows, spatial):
                label_map[box.slices] = values
                order += range(box.start[axis_order[0]], box.stop[axis_order[0]])
            for output in range(3):
                outside = restore.outside_probability(output, labels)
                values = part.probability(output)
                for box, placed in restore.placed_in_image(values, part.rows, spatial, outside):
                    probabilities[(output, *box.slices)] = placed
        slab.fill_(np.nan)  # as a later slab may take its place
    assert restorer.finished
    assert released
    assert order == list(range(spatial.shape_transposed[0]))
    assert np.array_equal(label_map, restore_labels(logits, spatial, plan, labels))
    assert np.array_equal(probabilities, np.stack(list(restore_probabilities(logits, spatial, plan, labels))))


def test_equal_logits_go_to_the_first_label(make_plans: Callable[..., Plans]) -> None:
    spatial = make_record((4, 5, 6), (2.0, 2.0, 1.0), (0, 1, 2), (1.0, 1.0, 1.0))
    logits = torch.zeros((3, 4, 5, 6))
    logits[1:, :2] = 1
    found = restore_labels(logits, spatial, make_plans().configuration("test"), PLAIN)
    assert set(np.unique(found)) == {0, 1}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems)
def test_regions_are_painted_in_order(make_plans: Callable[..., Plans], problem: Any) -> None:
    shape, factors, axis_order, spacing, seed = problem
    spatial = make_record(shape, factors, axis_order, spacing)
    logits = np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32)
    everything = unstreamed(logits, spatial)
    expected = np.zeros(everything.shape[1:], np.uint8)
    for channel, value in zip(everything, (1, 2, 3), strict=True):
        expected[channel > 0] = value
    clear = paste((np.abs(everything) > 1e-5).all(0), spatial, True)
    plan = make_plans().configuration("test")
    found = restore_labels(torch.from_numpy(logits), spatial, plan, REGIONS)
    assert np.array_equal(found[clear], paste(expected, spatial)[clear])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems, labels=st.sampled_from([PLAIN, REGIONS]))
def test_probabilities_agree_with_labels_and_are_certain_outside(
    make_plans: Callable[..., Plans], problem: Any, labels: Labels
) -> None:
    shape, factors, axis_order, spacing, seed = problem
    spatial = make_record(shape, factors, axis_order, spacing)
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32))
    plan = make_plans().configuration("test")
    probabilities = np.stack(list(restore_probabilities(logits, spatial, plan, labels)))
    assert probabilities.dtype == np.float32
    assert probabilities.shape == (3, *spatial.shape_original)
    outside = paste(np.zeros(spatial.shape_cropped, bool), spatial, True)
    expected = np.zeros(3) if labels.has_regions else np.array([1, 0, 0])
    assert (probabilities[:, outside] == expected[:, None]).all()
    if not labels.has_regions:
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    everything = torch.from_numpy(unstreamed(logits.numpy(), spatial))
    direct = everything.sigmoid() if labels.has_regions else everything.softmax(0)
    for values, wanted in zip(probabilities, direct.numpy(), strict=True):
        inside = values.transpose(spatial.axis_order)[spatial.crop.slices]
        np.testing.assert_allclose(inside, wanted, atol=2e-5)
    margin = (
        np.abs(probabilities - 0.5).min(0) if labels.has_regions else np.diff(np.sort(probabilities, 0)[-2:], axis=0)[0]
    )
    clear = margin > 1e-5
    found = restore_labels(logits, spatial, plan, labels)
    assert np.array_equal(labels_from_probabilities(probabilities, labels)[clear], found[clear])


def test_probabilities_are_never_held_all_at_once(make_plans: Callable[..., Plans]) -> None:
    labels = Labels.from_json({"background": 0, **{f"bone {k}": k for k in range(1, 40)}})
    spatial = make_record((20, 24, 24), (3.0, 3.0, 3.0), (0, 1, 2), (1.0, 1.0, 1.0))
    logits = 60 * torch.randn((40, 20, 24, 24), generator=torch.Generator().manual_seed(0))
    volume = 4 * math.prod(spatial.shape_original)
    total = np.zeros(spatial.shape_original)
    tracemalloc.start()
    try:
        for values in restore_probabilities(logits, spatial, make_plans().configuration("test"), labels):
            assert np.isfinite(values).all()
            total += values
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(total, 1, atol=1e-4)
    assert peak < 8 * volume, f"{peak / volume:.1f} volumes of 40"


def test_label_values_with_gaps_and_above_255(make_plans: Callable[..., Plans]) -> None:
    spatial = make_record((2, 2, 2), (1.0, 1.0, 1.0), (0, 1, 2), (1.0, 1.0, 1.0))
    logits = torch.zeros((3, 2, 2, 2))
    logits[2, 0] = logits[1, 1] = 1
    found = restore_labels(logits, spatial, make_plans().configuration("test"), GAPS)
    assert found.dtype == np.uint8  # classes
    values = GAPS.to_values(found)
    assert set(values[spatial.crop.slices].ravel().tolist()) == {4, 300}
    assert written_type(GAPS) == np.uint16
    assert np.array_equal(found[spatial.crop.slices], labels_from_probabilities(logits.numpy(), GAPS))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    axis_order=st.permutations([0, 1, 2]),
    target=st.tuples(*[st.sampled_from([0.6, 1.0, 1.5])] * 3),
    two_d=st.booleans(),
)
def test_restore_undoes_preprocess(
    make_plans: Callable[..., Plans], axis_order: Any, target: tuple[float, ...], two_d: bool
) -> None:
    """One-hot logits of a preprocessed reference come back as the reference, up to a voxel at its surface."""
    z, y, x = np.mgrid[:30, :36, :32]
    label = ((z - 15) ** 2 + (y - 18) ** 2 + (x - 15) ** 2 < 81).astype(np.int16)
    label[(z > 15) & (label == 1)] = 2
    image = np.zeros((1, 30, 36, 32), np.float32)
    image[0, 3:28, 4:33, 2:29] = np.random.default_rng(0).uniform(1, 2, size=(25, 29, 27))
    case = Case("ball", image, label, Geometry((1.0, 0.9, 1.1)))
    plans = make_plans(target[1:] if two_d else target, axis_order=axis_order)
    plan = plans.configuration("test")
    done = preprocess_case(case, plans, plan, PLAIN)
    logits = torch.from_numpy(np.stack([done.label.clip(0) == value for value in range(3)]).astype(np.float32))
    found = restore_labels(logits, done.spatial, plan, PLAIN)
    assert found.shape == label.shape
    for value in (1, 2):
        overlap = 2 * ((found == value) & (label == value)).sum() / ((found == value).sum() + (label == value).sum())
        assert overlap > 0.93
    if permute(case.geometry.spacing, axis_order) == done.spatial.spacing_plan:
        assert np.array_equal(found, label)


def test_without_resampling_restore_is_exact(make_plans: Callable[..., Plans]) -> None:
    random = np.random.default_rng(0)
    image = np.zeros((1, 9, 8, 7), np.float32)
    image[0, 2:7, 1:6, 2:5] = 1 + random.random((5, 5, 3))
    label = np.zeros((9, 8, 7), np.int16)
    label[2:7, 1:6, 2:5] = random.integers(0, 3, size=(5, 5, 3))
    plans = make_plans((1.0, 1.0, 1.0), axis_order=(2, 0, 1))
    plan = plans.configuration("test")
    done = preprocess_case(Case("c", image, label, Geometry((1.0, 1.0, 1.0))), plans, plan, PLAIN)
    logits = torch.from_numpy(np.stack([done.label == value for value in range(3)]).astype(np.float32))
    assert np.array_equal(restore_labels(logits, done.spatial, plan, PLAIN), label)


def test_labels_on_another_grid_of_the_plan(make_plans: Callable[..., Plans]) -> None:
    logits = torch.randn((3, 6, 8, 7), generator=torch.Generator().manual_seed(0))
    one = (1.0, 1.0, 1.0)
    resampling = make_plans().configuration("test").resampling_probabilities
    interpolation = interpolation_of(resampling, one, (0.5, 0.5, 0.5))
    part = restore.Restorer((6, 8, 7), (12, 16, 14), interpolation, PLAIN).take(0, logits)
    assert part is not None
    found = part.decide()
    everything = resample_image(logits.numpy(), (12, 16, 14), one, (0.5, 0.5, 0.5), FIRST)
    assert (found == everything.argmax(0)).mean() > 0.999


def test_what_does_not_fit_is_refused(make_plans: Callable[..., Plans]) -> None:
    spatial = make_record((4, 4, 4), (2.0, 2.0, 2.0), (0, 1, 2), (1.0, 1.0, 1.0))
    plan = make_plans().configuration("test")
    with pytest.raises(SegflowError, match="another shape"):
        restore_labels(torch.zeros((3, 4, 4, 5)), spatial, plan, PLAIN)
    with pytest.raises(SegflowError, match="number of channels"):
        restore_probabilities(torch.zeros((2, 4, 4, 4)), spatial, plan, PLAIN)
    cubic = replace(plan, resampling_probabilities=ResamplingPlan(FIRST.method, {"order": 3}))
    with pytest.raises(SegflowError, match="interpolation of probabilities"):
        restore_labels(torch.zeros((3, 4, 4, 4)), spatial, cubic, PLAIN)
    none = replace(plan, resampling_probabilities=ResamplingPlan("no_resampling_hack"))
    with pytest.raises(SegflowError, match="resample nothing"):
        restore_labels(torch.zeros((3, 4, 4, 4)), spatial, none, PLAIN)
