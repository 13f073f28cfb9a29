"""Two settings compared case by case: difference, interval, test, effect size, and how many cases are better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segflow.core.comparison import Pair
from segflow.evaluation.compare import estimate_mean
from segflow.evaluation.seed_noise import seeds_and_cases

WILCOXON, SEEDS = "Wilcoxon", "seeds and cases"
"""Names of the tests: Wilcoxon's signed-rank test with one seed each, else `segflow.evaluation.seed_noise`."""

NOISE = 1e-12
"""Differences up to this are zero."""


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of one label, or of their mean, for one setting.

    Attributes:
        values: float64 (seeds, cases), NaN where undefined.
        absent: bool (seeds, cases): the label is rightly absent from the prediction.
        sign: 1 if a higher value is better, else -1.
    """

    values: np.ndarray
    absent: np.ndarray
    sign: int = 1

    def undefined(self) -> np.ndarray:
        """bool (cases,): no seed has a score."""
        return np.asarray(np.isnan(self.values).all(axis=0))

    def order(self) -> np.ndarray:
        """float64 (cases,) by which settings are ranked, higher is better: the mean over the seeds.

        It is minus infinity where a seed has an infinite distance, or no score though there was something to find or
        found; and infinity where all are rightly empty.
        """
        better = np.where(np.isnan(self.values), np.where(self.absent, np.inf, -np.inf), self.sign * self.values)
        worst, best = np.isneginf(better).any(axis=0), np.isposinf(better).all(axis=0)
        finite = np.isfinite(better)
        sums, counts = np.where(finite, better, 0.0).sum(axis=0), finite.sum(axis=0)
        return np.where(worst, -np.inf, np.where(best, np.inf, sums / np.maximum(counts, 1)))


def compare_pair(first: Column, second: Column, *, alpha: float = 0.05, resamples: int = 2000) -> Pair:
    """Compare two settings in one metric and label. The p-value is not corrected yet.

    Args:
        first, second: Their scores of the same cases.
        alpha: The interval has the confidence 1 - alpha.
        resamples: Bootstrap samples of the interval, with one seed each.
    """
    known = ~(first.undefined() & second.undefined())
    finite = np.isfinite(first.values).all(axis=0) & np.isfinite(second.values).all(axis=0)
    one, two = first.values[:, finite], second.values[:, finite]
    differences = two.mean(axis=0) - one.mean(axis=0)
    ordered = _ordered_differences(first.order()[known], second.order()[known])
    if len(one) + len(two) > 2:
        tested = seeds_and_cases(one, two, 1 - alpha) if one.shape[1] else None
        low, high, p = (tested.low, tested.high, tested.p_value) if tested else (math.nan,) * 3
    elif one.shape[1]:
        estimate = estimate_mean(differences, resamples=resamples, confidence=1 - alpha)
        low, high, p = estimate.low, estimate.high, _wilcoxon(ordered)
    else:
        low, high, p = math.nan, math.nan, _wilcoxon(ordered)
    infinite = np.isinf(first.values).any(axis=0) | np.isinf(second.values).any(axis=0)
    return Pair(
        first_mean=_mean(one),
        second_mean=_mean(two),
        difference=_mean(differences),
        low=low,
        high=high,
        p_value=p,
        corrected=p,
        test=SEEDS if len(one) + len(two) > 2 else WILCOXON,
        effect=_rank_biserial(ordered),
        better=int((ordered > 0).sum()),
        worse=int((ordered < 0).sum()),
        equal=int((ordered == 0).sum()),
        cases=int(finite.sum()),
        infinite=int(infinite.sum()),
        one_sided=int((known & ~finite & ~infinite).sum()),
        sign=first.sign,
    )


def corrected(pairs: Sequence[Pair], method: str) -> list[Pair]:
    """The pairs of one family with corrected p-values. Those without a p-value do not count.

    Args:
        pairs: The family.
        method: ``holm``, ``bonferroni`` or ``none``.
    """
    values = np.array([pair.p_value for pair in pairs])
    adjusted = adjust(values, method)
    return [replace(pair, corrected=float(value)) for pair, value in zip(pairs, adjusted, strict=True)]


def adjust(p_values: np.ndarray, method: str) -> np.ndarray:
    """Corrected p-values of a family, float64 of the same shape. NaN stays and does not count."""
    result = p_values.astype(np.float64)
    places = np.flatnonzero(~np.isnan(result))
    if method == "none" or not len(places):
        return result
    if method == "bonferroni":
        return np.minimum(result * len(places), 1.0)
    ordered = places[np.argsort(result[places], kind="stable")]
    factors = np.arange(len(ordered), 0, -1)
    result[ordered] = np.minimum(np.maximum.accumulate(result[ordered] * factors), 1.0)
    return result


def _ordered_differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64 (cases,) for ranks: second minus first, where an infinite one is larger than all others."""
    with np.errstate(invalid="ignore"):
        plain = second - first
    same = (first == second) | (np.abs(plain) <= NOISE)
    found = np.where(same, 0.0, plain)
    largest = np.abs(found[np.isfinite(found)]).max(initial=0.0) + 1
    return np.clip(found, -largest, largest)


def _wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p-value; 1 if all scores are the same, NaN without cases."""
    if not len(differences):
        return math.nan
    if not differences.any():
        return 1.0
    from scipy.stats import wilcoxon  # slow

    return float(wilcoxon(differences).pvalue)


def _rank_biserial(differences: np.ndarray) -> float:
    """Sum of the ranks of positive differences minus that of negative ones, over the sum of all; 0 without any."""
    changed = differences[differences != 0]
    if not len(changed):
        return 0.0
    from scipy.stats import rankdata  # slow

    ranks = rankdata(np.abs(changed))
    return float((ranks * np.sign(changed)).sum() / ranks.sum())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan
