"""Two settings compared case by case."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from segflow.evaluation.paired import Column, adjust, compare_pair, corrected

NAN, INF = math.nan, math.inf


def column(*seeds: object, sign: int = 1, absent: object = None) -> Column:
    values = np.asarray(seeds, dtype=np.float64)
    return Column(values, np.zeros(values.shape, bool) if absent is None else np.asarray([absent], bool), sign)


def test_the_difference_its_interval_and_its_test_are_those_of_the_pairs() -> None:
    generator = np.random.default_rng(0)
    first = generator.uniform(0.5, 0.9, 30)
    second = first + generator.normal(0.02, 0.02, 30)
    pair = compare_pair(column(first), column(second))
    assert pair.difference == pytest.approx((second - first).mean())
    assert pair.low < pair.difference < pair.high
    assert pair.high - pair.low == pytest.approx(2 * 1.96 * (second - first).std() / math.sqrt(30), rel=0.2)
    assert pair.p_value == wilcoxon(second, first).pvalue < 0.01
    assert (pair.better + pair.worse, pair.equal, pair.cases) == (30, 0, 30)
    assert pair.winner(0.05) == 1
    assert compare_pair(column(second), column(first)).winner(0.05) == -1


def test_of_a_distance_less_is_better() -> None:
    generator = np.random.default_rng(1)
    first = generator.uniform(2, 9, 30)
    pair = compare_pair(column(first, sign=-1), column(first - 1, sign=-1))
    assert (pair.difference, pair.better, pair.effect) == (pytest.approx(-1), 30, 1.0)
    assert pair.winner(0.05) == 1


def test_an_infinite_distance_is_the_worst_score_and_stands_in_no_mean() -> None:
    first = column([1.0, 2.0, INF, NAN, 5.0, INF], sign=-1)
    second = column([2.0, 1.0, 3.0, NAN, INF, INF], sign=-1)
    pair = compare_pair(first, second)
    assert (pair.first_mean, pair.second_mean, pair.cases, pair.infinite) == (1.5, 1.5, 2, 3)
    assert (pair.better, pair.worse, pair.equal) == (2, 2, 1)
    assert pair.effect == 0


def test_a_label_that_is_rightly_absent_is_the_best_score_and_a_missing_score_the_worst() -> None:
    false_find = column([0.0, 0.8])
    absent = Column(np.array([[NAN, 0.8]]), np.array([[True, False]]))
    pair = compare_pair(false_find, absent)
    assert (pair.better, pair.worse, pair.equal, pair.cases, pair.one_sided) == (1, 0, 1, 1, 1)
    missing = Column(np.array([[NAN, 0.8]]), np.zeros((1, 2), bool))
    assert compare_pair(false_find, missing).worse == 1


def test_the_same_scores_are_not_distinguishable() -> None:
    scores = np.linspace(0.5, 0.9, 20)
    pair = compare_pair(column(scores), column(scores))
    assert (pair.p_value, pair.equal, pair.winner(0.05)) == (1.0, 20, 0)


def test_a_few_far_cases_decide_nothing_alone() -> None:
    """Most cases are a little better, and the mean is worse: the ranks and the mean disagree."""
    first = np.linspace(0.8, 0.95, 40)
    second = first + 0.004 + 0.0001 * np.arange(40)
    second[:5] -= 0.6
    pair = compare_pair(column(first), column(second))
    assert pair.p_value < 0.01
    assert (pair.effect > 0, pair.difference < 0, pair.winner(0.05)) == (True, True, 0)


@pytest.mark.parametrize("scores", [[], [0.5], [NAN, NAN]])
def test_too_few_cases_give_no_verdict(scores: list[float]) -> None:
    other = [value + 0.1 for value in scores]
    for pair in (compare_pair(column(scores), column(other)), compare_pair(column(scores, scores), column(other))):
        assert (math.isnan(pair.low), pair.winner(0.05)) == (True, 0)


def test_p_values_are_corrected_as_in_the_textbook() -> None:
    p = np.array([0.01, 0.04, NAN, 0.03])
    np.testing.assert_allclose(adjust(p, "holm"), [0.03, 0.06, NAN, 0.06])
    np.testing.assert_allclose(adjust(p, "bonferroni"), [0.03, 0.12, NAN, 0.09])
    np.testing.assert_allclose(adjust(p, "none"), p)
    np.testing.assert_allclose(adjust(np.array([0.5, 0.9]), "holm"), [1.0, 1.0])


def test_corrected_pairs_can_lose_their_verdict() -> None:
    generator = np.random.default_rng(3)
    first = generator.uniform(0.5, 0.9, 12)
    pair = compare_pair(column(first), column(first + generator.normal(0.014, 0.028, 12)))
    assert 0.01 < pair.p_value < 0.05
    assert pair.winner(0.05) == 1
    assert corrected([pair] * 5, "holm")[0].winner(0.05) == 0
    assert corrected([pair] * 5, "none")[0] == pair
