"""Ranks of settings in each case, label and metric, as the BraTS challenge makes them, and how stable they are.

Every setting is ranked in every case, label and metric; equal scores share the mean of their ranks. The mean of all is
the setting's rank. Neighbours are compared by permutation: in each case their ranks are exchanged or not, at random
(Bakas et al. 2018). Bootstrap over cases, and over seeds where there are several, shows how often each setting comes
first (Wiesenfarth et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from segflow.core.comparison import Rank
from segflow.evaluation.paired import NOISE, Column, adjust

SEED_DRAWS = 100
"""Most draws of seeds, each of which is followed by several draws of cases."""


def rank_settings(
    columns: Sequence[Sequence[Column]], *, confidence: float = 0.95, correction: str = "holm", resamples: int = 2000
) -> list[Rank]:
    """Rank settings, the best first.

    Args:
        columns: For each setting, its columns of every metric and label, in the same order.
        confidence: Confidence of the intervals of places.
        correction: Correction of the p-values of neighbours, see `segflow.evaluation.paired.adjust`.
        resamples: Bootstrap samples, and permutations.
    """
    generator = np.random.default_rng(0)
    ranks, counted = _ranks_of_cases([[column.order() for column in own] for own in columns], _unknown(columns))
    means = _weighted(ranks, counted, np.ones((1, ranks.shape[1])))[0]
    places = _places(means[None])[0]
    drawn = _places(_bootstrapped(columns, ranks, counted, generator, resamples))
    winners = drawn == drawn.min(axis=1, keepdims=True)
    first = (winners / winners.sum(axis=1, keepdims=True)).mean(axis=0)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    found = [
        Rank(
            setting=number,
            rank=float(means[number]),
            place=float(places[number]),
            low=float(low[number]),
            high=float(high[number]),
            first=float(first[number]),
            p_next=math.nan,
        )
        for number in np.argsort(means, kind="stable").tolist()
    ]
    tests = [
        _exchanged(ranks[here.setting] - ranks[after.setting], generator, resamples)
        if _has_one_seed(columns[here.setting]) and _has_one_seed(columns[after.setting])
        else math.nan
        for here, after in pairwise(found)
    ]
    adjusted = [*adjust(np.array(tests), correction), math.nan]
    return [replace(rank, p_next=float(p)) for rank, p in zip(found, adjusted, strict=True)]


def _has_one_seed(columns: Sequence[Column]) -> bool:
    return len(columns[0].values) == 1


def _unknown(columns: Sequence[Sequence[Column]]) -> np.ndarray:
    """bool (columns, cases): no setting has a score."""
    return np.stack([np.all([column.undefined() for column in same], axis=0) for same in zip(*columns, strict=True)])


def _ranks_of_cases(orders: Sequence[Sequence[np.ndarray]], unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of ranks, float64 (settings, cases), and the number of scores behind each sum, float64 (cases,)."""
    table = np.asarray(orders)
    ranks = np.ones_like(table)
    for other in table:  # one and a half for each equal one, of which the setting itself is one
        with np.errstate(invalid="ignore"):
            ahead = other[None] - table
        equal = (other[None] == table) | (np.abs(ahead) <= NOISE)
        ranks += np.where(equal, 0.5, other[None] > table)
    ranks = np.where(unknown[None], 0.0, ranks - 0.5)
    return ranks.sum(axis=1), (~unknown).sum(axis=0).astype(np.float64)


def _weighted(ranks: np.ndarray, counted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64 (samples, settings): mean ranks where the cases have these weights (samples, cases)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weights @ ranks.T) / (weights @ counted)[:, None])


def _places(means: np.ndarray) -> np.ndarray:
    """float64 (samples, settings): the places of mean ranks. Equal ones share a place."""
    ahead = means[:, None, :] < means[:, :, None] - NOISE
    same = np.abs(means[:, None, :] - means[:, :, None]) <= NOISE
    return np.asarray(0.5 + ahead.sum(axis=2) + 0.5 * same.sum(axis=2))


def _bootstrapped(
    columns: Sequence[Sequence[Column]],
    ranks: np.ndarray,
    counted: np.ndarray,
    generator: np.random.Generator,
    resamples: int,
) -> np.ndarray:
    """float64 (samples, settings): mean ranks of resampled seeds and cases."""
    cases = ranks.shape[1]
    weights = generator.multinomial(cases, np.full(cases, 1 / cases), size=resamples).astype(np.float64)
    weights = weights[weights @ counted > 0]
    if all(map(_has_one_seed, columns)):
        return _weighted(ranks, counted, weights)
    unknown = _unknown(columns)
    samples = []
    for part in np.array_split(weights, SEED_DRAWS):
        seeds = [generator.integers(len(own[0].values), size=len(own[0].values)) for own in columns]
        orders = [
            [replace(column, values=column.values[drawn], absent=column.absent[drawn]).order() for column in own]
            for own, drawn in zip(columns, seeds, strict=True)
        ]
        samples.append(_weighted(*_ranks_of_cases(orders, unknown), part))
    return np.concatenate(samples)


def _exchanged(differences: np.ndarray, generator: np.random.Generator, permutations: int) -> float:
    """Two-sided p-value of rank differences (cases,), by exchanging the two settings in each case or not."""
    if not np.abs(differences).max(initial=0.0) > NOISE:
        return 1.0
    signs = generator.choice((-1.0, 1.0), size=(permutations, len(differences)))
    extreme = np.abs(signs @ differences) >= abs(differences.sum()) - NOISE
    return float((extreme.sum() + 1) / (permutations + 1))
