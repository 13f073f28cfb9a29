"""Runs compared case by case: paired differences with interval and test."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segflow.core.labels import LabelKey, Labels
from segflow.core.metrics import HEADINGS, Summary
from segflow.evaluation.compare import Estimate, estimate_mean

COMPARED = ("Dice", "hd95_mm", "surface_dice")
"""Metrics of the tables, where they were computed."""

MEAN = "mean of labels"


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two runs on the cases in which a score is defined and finite in both.

    Attributes:
        key: The label or region; None for the mean over all of them within a case.
        first, second: Mean of each run over these cases.
        difference: Mean of second minus first, its interval by bootstrap over the cases, and their number.
        p_value: Wilcoxon signed-rank test of the differences, two-sided; NaN if there are none but zeros.
        infinite: Further cases whose score is infinite in one run or both.
    """

    key: LabelKey | None
    first: float
    second: float
    difference: Estimate
    p_value: float
    infinite: int


def paired_differences(first: Summary, second: Summary, metric: str) -> list[PairedDifference]:
    """Differences of a metric for each label, and for the mean over the labels if there are several.

    Args:
        first, second: Scores of the same labels on the same cases.
        metric: Name of a metric that both have.
    """
    keys: list[LabelKey | None] = [*first.keys]
    tables = [first.values(metric), second.values(metric)]
    columns = [[table[:, place] for table in tables] for place in range(len(keys))]
    if len(keys) > 1:
        keys.append(None)
        columns.append([_mean_of_labels(table) for table in tables])
    return [_paired(key, *pair) for key, pair in zip(keys, columns, strict=True)]


def paired_rows(names: Sequence[str], runs: Sequence[Summary], labels: Labels) -> list[list[str]]:
    """The other runs against the first, as a table: a heading, and one row for each metric, label and run.

    Args:
        names: Name of each run.
        runs: Scores of the same labels on the same cases.
        labels: The label definition, for the names.
    """
    rows = [
        ["metric", "label", "run", names[0], "that run", "difference", "95 % of resamples", "p (Wilcoxon)", "cases"]
    ]
    for metric in metrics_of_all(runs):
        compared = [paired_differences(runs[0], run, metric) for run in runs[1:]]
        for of_label in zip(*compared, strict=True):
            for name, pair in zip(names[1:], of_label, strict=True):
                label = MEAN if pair.key is None else labels.name_of(pair.key)
                rows.append([HEADINGS[metric], label, name, *_numbers(pair, _digits(metric))])
    return rows


def score_rows(names: Sequence[str], runs: Sequence[Summary], labels: Labels) -> list[list[str]]:
    """Means of every run side by side: a heading, and one row for each metric and label."""
    rows = [["metric", "label", *names]]
    for metric in metrics_of_all(runs):
        form = f".{_digits(metric)}f"
        for key in runs[0].keys:
            name = labels.name_of(key)
            rows.append([HEADINGS[metric], name, *(_shown(run.mean[key][metric], form) for run in runs)])
        if len(runs[0].keys) > 1:
            means = [estimate_mean(run.values(metric)).mean for run in runs]
            rows.append([HEADINGS[metric], MEAN, *(_shown(mean, form) for mean in means)])
    return rows


def metrics_of_all(runs: Sequence[Summary]) -> list[str]:
    """The metrics of the tables that every run has."""
    return [metric for metric in COMPARED if all(metric in next(iter(run.mean.values()), {}) for run in runs)]


def _paired(key: LabelKey | None, first: np.ndarray, second: np.ndarray) -> PairedDifference:
    defined = ~np.isnan(first) & ~np.isnan(second)
    finite = defined & np.isfinite(first) & np.isfinite(second)
    one, two = first[finite], second[finite]
    means = [float(values.mean()) if len(values) else math.nan for values in (one, two)]
    differences = np.full(len(first), np.nan)
    differences[finite] = two - one
    infinite = int(defined.sum() - finite.sum())
    return PairedDifference(key, means[0], means[1], estimate_mean(differences), _wilcoxon(two - one), infinite)


def _numbers(pair: PairedDifference, digits: int) -> list[str]:
    """Means, difference, interval, p-value and number of cases, as a table shows them."""
    form, one = f".{digits}f", pair.difference
    interval = "–" if math.isnan(one.low) else f"{one.low:+{form}} … {one.high:+{form}}"
    left_out = f" ({pair.infinite} infinite left out)" if pair.infinite else ""
    means = [_shown(pair.first, form), _shown(pair.second, form), _shown(one.mean, f"+{form}")]
    return [*means, interval, _shown(pair.p_value, ".2g"), f"{one.cases}{left_out}"]


def _digits(metric: str) -> int:
    """Decimals: four of a share, two of millimetres."""
    return 2 if metric.endswith("_mm") else 4


def _mean_of_labels(table: np.ndarray) -> np.ndarray:
    """float64 (cases,): mean over the labels in which a case has a score; NaN if there are none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of cases without any score
        return np.asarray(np.nanmean(table, axis=1))


def _wilcoxon(differences: np.ndarray) -> float:
    if not differences.any():
        return math.nan
    from scipy.stats import wilcoxon  # slow

    return float(wilcoxon(differences).pvalue)


def _shown(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)
