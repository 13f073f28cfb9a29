"""What a comparison of settings found: differences of pairs, ranks, and noise between seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MEAN = "mean of labels"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two settings in one metric and label.

    Attributes:
        first_mean, second_mean: Means over the cases in which both have a finite score.
        difference: Mean of second minus first over the same cases.
        low, high: Its confidence interval; NaN with fewer than two cases.
        p_value: Two-sided p-value of ``test``; NaN if there is too little to test.
        corrected: The same, corrected for the number of comparisons.
        test: Name of the test.
        effect: Matched-pairs rank-biserial correlation, from -1 (the second is worse in all cases) to 1 (it is better).
        better, worse, equal: Number of cases in which the second is so.
        cases: Number of cases behind the means.
        infinite: Further cases in which a distance is infinite.
        one_sided: Further cases in which only one of both has a score.
        sign: 1 if a higher value is better, else -1.
    """

    first_mean: float
    second_mean: float
    difference: float
    low: float
    high: float
    p_value: float
    corrected: float
    test: str
    effect: float
    better: int
    worse: int
    equal: int
    cases: int
    infinite: int
    one_sided: int
    sign: int = 1

    def winner(self, alpha: float) -> int:
        """1 if the second is better, -1 if the first is, 0 if they are not distinguishable.

        The test, the interval and the ranks must say the same, so that a few far cases, which weigh much in a mean and
        little in ranks, decide nothing alone.
        """
        certain = self.corrected < alpha and (self.low > 0 or self.high < 0)
        if not certain or self.effect * self.difference * self.sign <= 0:
            return 0
        return 1 if self.effect > 0 else -1


@dataclass(frozen=True, slots=True)
class Rank:
    """The rank of a setting.

    Attributes:
        setting: Place of the setting among those that were given.
        rank: Mean of its ranks over cases, labels and metrics; 1 is the best.
        place: Its place by this mean, from 1.
        low, high: Interval of its place over the bootstrap samples.
        first: Share of the bootstrap samples in which it comes first; settings that are first together share it.
        p_next: Corrected p-value of the difference from the next place; NaN for the last, and where one of both has
            several seeds, of which the permutation knows nothing.
    """

    setting: int
    rank: float
    place: float
    low: float
    high: float
    first: float
    p_next: float


@dataclass(frozen=True, slots=True)
class Row:
    """Two settings in one metric and label.

    Attributes:
        metric: The metric.
        label: Name of the label, or `MEAN`.
        first, second: Places of the settings.
        pair: The comparison.
    """

    metric: str
    label: str
    first: int
    second: int
    pair: Pair


@dataclass(frozen=True, slots=True)
class Noise:
    """A setting in one metric, over its seeds.

    Attributes:
        setting: Place of the setting.
        metric: The metric.
        means: Mean over the labels and cases, for each training. Cases without a finite score of all are left out.
        spread: Standard deviation of these means; NaN with one training.
    """

    setting: int
    metric: str
    means: tuple[float, ...]
    spread: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found.

    Attributes:
        settings: Names of the settings.
        trainings: Names of the trainings of each.
        metrics: The compared metrics.
        labels: Names of the labels.
        cases: The common cases.
        patients: Number of patients, each of which counts as one; the number of cases if these stand for themselves.
        rows: Every pair in every metric, the mean of labels first where there are several.
        noise: Every setting in every metric.
        ranks: The settings by rank; empty with one setting.
        notes: What to know about the scores, one sentence each.
        correction: The correction of p-values, such as ``holm``.
        alpha: A corrected p-value below it counts.
        spots: Metric → float64 (settings, cases or patients), mean over labels and seeds, for pictures.
    """

    settings: tuple[str, ...]
    trainings: tuple[tuple[str, ...], ...]
    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    cases: tuple[str, ...]
    patients: int
    rows: tuple[Row, ...]
    noise: tuple[Noise, ...]
    ranks: tuple[Rank, ...]
    notes: tuple[str, ...]
    correction: str
    alpha: float
    spots: Mapping[str, np.ndarray]

    @property
    def unit(self) -> str:
        """What is counted: ``case``, or ``patient`` if some have several cases."""
        return "case" if self.patients == len(self.cases) else "patient"

    def rows_of(self, metric: str, label: str | None = None) -> list[Row]:
        """The pairs in a metric; in its mean of labels, or the only label, unless one is named."""
        wanted = label or (MEAN if len(self.labels) > 1 else self.labels[0])
        return [row for row in self.rows if row.metric == metric and row.label == wanted]
