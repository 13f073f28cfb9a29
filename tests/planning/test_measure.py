"""Measurements are the statistics of the draws that nnU-Net makes, without keeping the draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segflow.core import image_look
from segflow.core.case import Case, OpenCase
from segflow.core.cropping import crop_to_nonzero
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.voxels import ArrayLabel, ArraySource
from segflow.planning import measure, repeated_draws
from segflow.planning.measure import measure_as_read, measure_case, samples_per_case, summarize


def make_case(seed: int = 0, *, channels: int = 2, integers: bool = False, case_id: str = "a") -> Case:
    generator = np.random.default_rng(seed)
    image = generator.normal(10, 4, (channels, 9, 12, 10)).astype(np.float32)
    if integers:
        image = np.round(image)
    image[:, :2] = 0
    label = (generator.random((9, 12, 10)) < 0.2).astype(np.int16)
    return Case(case_id, image, label, Geometry((2.0, 1.0, 0.5)))


def as_read(case: Case) -> OpenCase:
    label = None if case.label is None else ArrayLabel(case.label)
    return OpenCase(case.case_id, ArraySource(case.image), label, case.geometry)


def draws(case: Case, samples: int) -> list[np.ndarray]:
    """Recipe 2, step 4, as written there."""
    assert case.label is not None
    cropped = crop_to_nonzero(case.image, case.label)
    generator = np.random.RandomState(1234)
    return [generator.choice(channel[cropped.label > 0], samples, replace=True) for channel in cropped.image]


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("at_once", [1, 500, 10**6])
def test_statistics_are_those_of_all_draws_together(
    monkeypatch: pytest.MonkeyPatch, integers: bool, at_once: int
) -> None:
    monkeypatch.setattr(repeated_draws, "_DRAWS_AT_ONCE", at_once)
    monkeypatch.setattr(repeated_draws, "_MOST_BITS", 13 if at_once == 10**6 else 0)
    cases = [make_case(seed, integers=integers, case_id=str(seed)) for seed in range(3)]
    samples = 1777
    fingerprint = summarize([measure_case(case, samples) for case in cases])
    for channel, ours in enumerate(fingerprint.intensities):
        everything = np.concatenate([draws(case, samples)[channel] for case in cases]).astype(np.float64)
        expected = np.percentile(everything, (0.5, 50, 99.5))
        assert (ours.percentile_00_5, ours.median, ours.percentile_99_5) == pytest.approx(tuple(expected), rel=1e-12)
        assert (ours.min, ours.max) == (everything.min(), everything.max())
        assert (ours.mean, ours.std) == pytest.approx((everything.mean(), everything.std()), rel=1e-12)


def test_shapes_and_spacings_are_those_after_cropping() -> None:
    fingerprint = summarize([measure_case(make_case(), 10)])
    assert fingerprint.shapes_cropped == ((7, 12, 10),)
    assert fingerprint.spacings == ((2.0, 1.0, 0.5),)
    assert fingerprint.median_relative_size == pytest.approx(7 / 9)


@pytest.mark.parametrize("samples", [1, 50, 5000])
@pytest.mark.parametrize("seed", range(4))
def test_a_case_that_is_read_slab_by_slab_has_the_same_measurements(
    monkeypatch: pytest.MonkeyPatch, seed: int, samples: int
) -> None:
    case = make_case(seed, integers=seed % 2 == 0)
    case.image[0, 3, 4, 5] = 1e12
    if seed == 3:
        case.label[...] = 0
    monkeypatch.setattr(repeated_draws, "_DRAWS_AT_ONCE", 20)
    expected = measure_case(case, samples)
    for module in (measure, image_look):
        monkeypatch.setattr(module, "SLAB_VALUES", 150)
    found = measure_as_read(as_read(case), samples)
    for own, other in zip(found.intensities, expected.intensities, strict=True):
        assert np.array_equal(own.values, other.values)
        assert np.array_equal(own.counts, other.counts)
        assert own.counts.dtype == np.int64
    assert replace(found, intensities=()) == replace(expected, intensities=())
    assert "1e+12" in found.absurd


def test_draws_are_shared_out_among_the_cases() -> None:
    assert samples_per_case(200) == 500_000
    assert samples_per_case(3) == 33_333_333


def test_a_case_without_foreground_counts_for_nothing() -> None:
    empty = make_case(1, case_id="b")
    assert empty.label is not None
    empty.label[:] = 0
    full = measure_case(make_case(), 100)
    both = summarize([measure_case(empty, 100), full])
    assert both.intensities == summarize([full]).intensities
    assert len(both.spacings) == 2
    with pytest.raises(SegflowError, match="no label map has foreground"):
        summarize([measure_case(empty, 100)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_refused(value: float) -> None:
    case = make_case()
    case.image[1, 4, 4, 4] = value
    for attempt in (lambda: measure_case(case, 10), lambda: measure_as_read(as_read(case), 10)):
        with pytest.raises(SegflowError, match="case 'a': channel 1 holds 1 voxels"):
            attempt()


def test_a_case_needs_its_label() -> None:
    case = replace(make_case(), label=None)
    for attempt in (lambda: measure_case(case, 10), lambda: measure_as_read(as_read(case), 10)):
        with pytest.raises(SegflowError, match=r"case 'a'.*label"):
            attempt()


def test_cases_must_agree_in_channels() -> None:
    measurements = [measure_case(make_case(), 10), measure_case(make_case(channels=1, case_id="odd"), 10)]
    with pytest.raises(SegflowError, match=r"case 'odd'.*channels"):
        summarize(measurements)


@pytest.mark.parametrize("change", ["sentinel", 1e-35, 1e-20, 1e-9, 1e25, 1e36])
def test_statistics_of_absurd_images_are_finite_and_in_proportion(change: str | float) -> None:
    case = make_case(channels=1)
    plain = summarize([measure_case(case, 2000)]).intensities[0]
    foreground = np.argwhere(case.label > 0)  # type: ignore[operator]
    if isinstance(change, str):
        case.image[0][tuple(foreground[0])] = np.finfo(np.float32).min
    else:
        case.image[:] = (case.image.astype(np.float64) * change).astype(np.float32)
    measured = measure_case(case, 2000)
    found = summarize([measured]).intensities[0]
    assert all(np.isfinite(getattr(found, name)) for name in ("min", "max", "mean", "median", "std"))
    if isinstance(change, float):
        assert found.std == pytest.approx(plain.std * change, rel=1e-3)
        assert found.mean == pytest.approx(plain.mean * change, rel=1e-3)
    assert (measured.absurd is None) == (change == 1e-9)
