"""Ranks of settings over cases, labels and metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segflow.evaluation.paired import Column
from segflow.evaluation.ranking import rank_settings


def columns(*settings: object, sign: int = 1) -> list[list[Column]]:
    """One metric and label for each setting: a list of cases, or of seeds with lists of cases."""
    tables = [np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in settings]
    return [[Column(table, np.zeros(table.shape, bool), sign)] for table in tables]


def test_ranks_are_means_over_the_cases_and_equal_scores_share_theirs() -> None:
    first, second, third = rank_settings(columns([0.9, 0.8, 0.7], [0.9, 0.5, 0.6], [0.1, 0.9, 0.1]))
    assert [rank.setting for rank in (first, second, third)] == [0, 1, 2]
    assert [rank.rank for rank in (first, second, third)] == pytest.approx([4.5 / 3, 6.5 / 3, 7 / 3])
    assert (first.place, third.place) == (1, 3)
    assert math.isnan(third.p_next)


def test_an_infinite_distance_ranks_last_and_what_nobody_has_counts_for_nothing() -> None:
    first, second = rank_settings(columns([1.0, math.inf, math.nan], [2.0, 9.0, math.nan], sign=-1))
    assert first.rank == second.rank == 1.5
    assert (first.place, second.place) == (1.5, 1.5)
    assert first.first == pytest.approx(0.5, abs=0.1)


def test_labels_and_metrics_count_alike() -> None:
    dice, distance = columns([0.9, 0.9], [0.8, 0.8]), columns([3.0, 3.0], [1.0, 1.0], sign=-1)
    both = [[*one, *other] for one, other in zip(dice, distance, strict=True)]
    assert [rank.rank for rank in rank_settings(both)] == [1.5, 1.5]


def test_the_bootstrap_says_how_stable_the_order_is() -> None:
    generator = np.random.default_rng(0)
    cases = generator.uniform(0.6, 0.9, 40)
    clear = rank_settings(columns(cases + 0.05, cases, cases + generator.normal(0, 0.01, 40)))
    assert clear[0].setting == 0
    assert (clear[0].first, clear[0].low, clear[0].high) == (1.0, 1.0, 1.0)
    assert clear[0].p_next < 0.01 < clear[1].p_next
    assert sum(rank.first for rank in clear) == pytest.approx(1)


def test_a_lucky_seed_is_not_always_first() -> None:
    generator = np.random.default_rng(1)
    cases = generator.uniform(0.6, 0.9, 30)
    seeds = cases + np.array([[0.1], [-0.08], [-0.08]])
    lucky = rank_settings(columns(seeds, cases))
    assert 0.05 < next(rank.first for rank in lucky if rank.setting == 0) < 0.95
    assert math.isnan(lucky[0].p_next)  # its permutation knows nothing of seeds
