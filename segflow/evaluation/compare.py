"""Bootstrap over cases: the confidence interval of a mean score, and of the difference of two sets of scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
_DRAWN_AT_ONCE = 1 << 20
"""Weights in memory at once, 16 MB while they are drawn."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its confidence interval.

    Attributes:
        mean: Mean over the cases in which the score is defined; NaN if there are none.
        low, high: Ends of the percentile bootstrap interval; NaN with fewer than two cases.
        cases: Number of cases in which the score is defined.
        infinite: Number of these cases with an infinite score, such as the distance to a missing object. If there are
            any, the mean is infinite too.
    """

    mean: float
    low: float
    high: float
    cases: int
    infinite: int = 0


def mean_score(values: np.ndarray) -> float:
    """Mean of a score: float (cases,) or (cases, labels), NaN where undefined; see `estimate_means`."""
    table = _table(values)
    return float(_weighted_means(table, np.ones((1, len(table))))[0])


def estimate_mean(
    values: np.ndarray, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """`estimate_means` of a single score, float (cases,) or (cases, labels)."""
    return estimate_means([values], resamples=resamples, confidence=confidence, seed=seed)[0]


def estimate_means(
    scores: Sequence[np.ndarray], *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> list[Estimate]:
    """Means of scores of the same cases, and their confidence intervals by bootstrap over the cases.

    Args:
        scores: At least one; each float (cases,) or (cases, labels), NaN where undefined. With labels, each label is
            averaged over its cases first, then the labels are averaged, as in ``foreground_mean``.
        resamples: Bootstrap samples, the same for all scores.
        confidence: Share of the bootstrap samples within the interval.
        seed: Seed of the resampling.
    """
    tables = [_table(values) for values in scores]
    estimates = [Estimate(mean_score(table), math.nan, math.nan, *_counted(table)) for table in tables]
    bounded = [n for n, found in enumerate(estimates) if found.cases >= 2 and np.isfinite(found.mean)]
    functions = [partial(_weighted_means, tables[n]) for n in bounded]
    for n, samples in zip(bounded, _bootstrap(functions, len(scores[0]), resamples, seed), strict=True):
        low, high = _interval(samples, confidence)
        estimates[n] = replace(estimates[n], low=low, high=high)
    return estimates


def _counted(table: np.ndarray) -> tuple[int, int]:
    """Cases in which the score (cases, labels) is defined, and in which it is infinite."""
    return int((~np.isnan(table)).any(axis=1).sum()), int(np.isinf(table).any(axis=1).sum())


def estimate_difference(
    first: np.ndarray, second: np.ndarray, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """Mean of ``first`` minus mean of ``second`` on the same cases. The difference is noise if the interval holds 0.

    Args:
        first, second: float (cases, labels), the same cases and labels in the same order, NaN where undefined.
        resamples, confidence, seed: As in `estimate_means`.
    """
    mean = mean_score(first) - mean_score(second)
    if len(first) < 2 or not np.isfinite(mean):
        return Estimate(mean, math.nan, math.nan, len(first))

    def difference(weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = _weighted_means(first, weights) - _weighted_means(second, weights)
        return found

    (found,) = _bootstrap([difference], len(first), resamples, seed)
    return Estimate(mean, *_interval(found, confidence), len(first))


def _table(values: np.ndarray) -> np.ndarray:
    """float64 (cases, labels)."""
    return values.reshape(len(values), -1).astype(np.float64)


def _interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def _bootstrap(
    functions: Sequence[Callable[[np.ndarray], np.ndarray]], cases: int, resamples: int, seed: int
) -> list[np.ndarray]:
    """What each function makes of the weights of every bootstrap sample, float64 (resamples,)."""
    if not functions:
        return []
    parts = [[function(weights) for function in functions] for weights in _resampling_weights(cases, resamples, seed)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _resampling_weights(cases: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """float64 (samples, cases): how often each case is drawn in each bootstrap sample. Some samples at a time."""
    generator, chances = np.random.default_rng(seed), np.full(cases, 1 / cases)
    step = max(1, _DRAWN_AT_ONCE // cases)
    for start in range(0, resamples, step):
        yield generator.multinomial(cases, chances, size=min(step, resamples - start)).astype(np.float64)


def _weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64 (resamples,): labels averaged over the defined cases, then over the labels defined in the sample."""
    defined = ~np.isnan(values)
    totals = weights @ np.where(defined, values, 0.0)
    counts = weights @ defined.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        per_label = np.where(counts > 0, totals / counts, np.nan)
        seen = ~np.isnan(per_label)
        return np.where(seen.any(axis=1), np.nansum(per_label, axis=1) / seen.sum(axis=1), np.nan)
