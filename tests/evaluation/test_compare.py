"""Confidence intervals of mean scores and of differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segflow.evaluation.compare import estimate_difference, estimate_mean, estimate_means, mean_score


def test_the_interval_has_the_width_of_the_standard_error() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.1, 400)
    estimate = estimate_mean(values)
    error = values.std() / math.sqrt(400)
    assert estimate.mean == pytest.approx(values.mean())
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert estimate.low < estimate.mean < estimate.high


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        estimate = estimate_mean(generator.normal(0.5, 0.2, 40), resamples=400)
        held += estimate.low <= 0.5 <= estimate.high
    assert 175 <= held <= 200


def test_cases_without_the_label_are_left_out() -> None:
    values = np.array([0.5, np.nan, 0.7, np.nan])
    estimate = estimate_mean(values)
    assert estimate.mean == pytest.approx(0.6)
    assert estimate.cases == 2
    assert 0.5 <= estimate.low <= estimate.high <= 0.7


def test_labels_are_averaged_after_cases() -> None:
    values = np.array([[1.0, np.nan], [1.0, np.nan], [1.0, 0.0]])
    assert estimate_mean(values).mean == pytest.approx(0.5)


@pytest.mark.parametrize("values", [[np.nan, np.nan], [0.3], [np.inf, 1.0]])
def test_no_interval_where_there_is_nothing_to_resample(values: list[float]) -> None:
    estimate = estimate_mean(np.array(values))
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_pairing_finds_a_small_but_steady_difference() -> None:
    generator = np.random.default_rng(3)
    first = generator.uniform(0.2, 0.9, (60, 2))
    steady = estimate_difference(first + 0.01, first)
    assert steady.mean == pytest.approx(0.01)
    assert steady.low > 0
    noisy = estimate_difference(first + generator.normal(0.0, 0.2, (60, 2)), first)
    assert noisy.low < 0 < noisy.high


def test_the_interval_of_many_cases_is_that_of_samples_drawn_at_once() -> None:
    cases, resamples = 20_000, 300
    values = np.random.default_rng(3).uniform(size=cases)
    drawn = np.random.default_rng(0).multinomial(cases, np.full(cases, 1 / cases), size=resamples)
    low, high = np.percentile(drawn @ values / cases, [2.5, 97.5])
    estimate = estimate_mean(values, resamples=resamples)
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_scores_estimated_together_are_those_estimated_alone() -> None:
    random = np.random.default_rng(4)
    scores = [
        random.uniform(size=(30, 2)),
        random.uniform(size=30),
        np.full(30, math.inf),
        random.uniform(size=(30, 1)),
    ]
    scores[0][random.uniform(size=(30, 2)) < 0.3] = math.nan
    assert estimate_means(scores) == [estimate_mean(values) for values in scores]
    assert [mean_score(values) for values in scores] == [estimate.mean for estimate in estimate_means(scores)]


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(4).random(20)
    assert estimate_mean(values, seed=5) == estimate_mean(values, seed=5)
    assert estimate_mean(values, seed=5) != estimate_mean(values, seed=6)


def test_infinite_distances_are_counted() -> None:
    estimate = estimate_mean(np.array([1.0, np.inf, np.nan, np.inf]))
    assert math.isinf(estimate.mean)
    assert (estimate.infinite, estimate.cases) == (2, 3)
