"""Bootstrap over cases: the confidence interval of a mean score, and of the difference of two sets of scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
_DRAWN_AT_ONCE = 1 << 22
"""Weights in memory at once, 64 MB while they are drawn."""


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


def estimate_mean(
    values: np.ndarray, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """Mean of a score, and its confidence interval by bootstrap over the cases.

    Args:
        values: float (cases,) or (cases, labels), NaN where undefined. With labels, each label is
            averaged over its cases first, then the labels are averaged, as in ``foreground_mean``.
        resamples: Bootstrap samples.
        confidence: Share of the bootstrap samples within the interval.
        seed: Seed of the resampling.
    """
    table = values.reshape(len(values), -1).astype(np.float64)
    cases = int((~np.isnan(table)).any(axis=1).sum())
    mean = float(_weighted_means(table, np.ones((1, len(table))))[0])
    if cases < 2 or not np.isfinite(mean):
        infinite = int(np.isinf(table).any(axis=1).sum())
        return Estimate(mean, float("nan"), float("nan"), cases, infinite)
    means = np.concatenate(
        [_weighted_means(table, weights) for weights in _resampling_weights(len(table), resamples, seed)]
    )
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(means, [tail, 100 - tail])
    return Estimate(mean, float(low), float(high), cases)


def estimate_difference(
    first: np.ndarray, second: np.ndarray, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """Mean of ``first`` minus mean of ``second`` on the same cases. The difference is noise if the interval holds 0.

    Args:
        first, second: float (cases, labels), the same cases and labels in the same order, NaN where undefined.
        resamples, confidence, seed: As in `estimate_mean`.
    """
    whole = np.ones((1, len(first)))
    mean = float((_weighted_means(first, whole) - _weighted_means(second, whole))[0])
    if len(first) < 2 or not np.isfinite(mean):
        return Estimate(mean, float("nan"), float("nan"), len(first))
    differences = np.concatenate(
        [
            _weighted_means(first, weights) - _weighted_means(second, weights)
            for weights in _resampling_weights(len(first), resamples, seed)
        ]
    )
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(differences, [tail, 100 - tail])
    return Estimate(mean, float(low), float(high), len(first))


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
