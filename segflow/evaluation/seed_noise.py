"""Difference of two settings of which several seeds were trained: seeds and cases are both drawn by chance.

The model is that of studies with several readers and cases, with trainings in place of readers, which belong to one
setting each and see the same cases (Obuchowski and Rockette 1995; Hillis 2014). The variance of a difference of means
has a part of the seeds and a part of the cases, each estimated from mean squares. The variance between seeds is taken
to be the same in both settings.

A few seeds tell little about their variance. Satterthwaite's degrees of freedom, which are usual, then find up to twice
as many differences as they should where there are none. Here they are those of the seeds alone, which is never too few:
the test is exact where a setting is as good in one case as in another, and strict otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class SeedTest:
    """Result of `seeds_and_cases`.

    Attributes:
        difference: Mean of the second setting minus that of the first.
        low, high: Ends of its confidence interval; NaN if there is too little to estimate it.
        p_value: Two-sided p-value; NaN as above.
    """

    difference: float
    low: float
    high: float
    p_value: float


def seeds_and_cases(first: np.ndarray, second: np.ndarray, confidence: float = 0.95) -> SeedTest:
    """Compare two settings over their seeds and the cases.

    Args:
        first, second: float64 (seeds, cases), finite, the same cases in the same order. At least one of them has two
            seeds or more.
        confidence: Confidence of the interval.
    """
    difference = float(second.mean() - first.mean())
    cases, freedom = first.shape[1], len(first) + len(second) - 2
    if cases < 2 or freedom < 1:
        return SeedTest(difference, math.nan, math.nan, math.nan)
    weight = 1 / len(first) + 1 / len(second)
    of_seeds = sum(_squares(table.mean(axis=1)) for table in (first, second)) / freedom * weight
    of_cases = float((second.mean(axis=0) - first.mean(axis=0)).var(ddof=1)) / cases
    # What neither seed nor case explains is contained in both parts, and is counted once.
    of_rest = sum(map(_residual_squares, (first, second))) / (freedom * (cases - 1)) * weight / cases
    variance = of_seeds + max(of_cases - of_rest, 0.0)
    if variance <= 0:
        return SeedTest(difference, difference, difference, 1.0 if difference == 0 else math.nan)
    from scipy.stats import t  # slow

    degrees = min(freedom, cases - 1)
    error = math.sqrt(variance)
    width = error * float(t.ppf((1 + confidence) / 2, degrees))
    p_value = float(2 * t.sf(abs(difference) / error, degrees))
    return SeedTest(difference, difference - width, difference + width, p_value)


def spread_of_seeds(values: np.ndarray) -> float:
    """Standard deviation between seeds of the mean over the cases; NaN with one seed.

    Args:
        values: float64 (seeds, cases), finite.
    """
    return float(values.mean(axis=1).std(ddof=1)) if len(values) > 1 and values.shape[1] else math.nan


def _squares(values: np.ndarray) -> float:
    return float(((values - values.mean()) ** 2).sum())


def _residual_squares(table: np.ndarray) -> float:
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    return float((rest**2).sum())
