"""Means of several runs side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from segflow.core.comparison import MEAN
from segflow.core.labels import Labels
from segflow.core.metrics import HEADINGS, Summary
from segflow.evaluation.compare import mean_score
from segflow.evaluation.compare_scores import BY_DEFAULT


def score_rows(names: Sequence[str], runs: Sequence[Summary], labels: Labels) -> list[list[str]]:
    """Means of every run: a heading, and one row for each metric and label.

    Args:
        names: Name of each run.
        runs: Scores of the same labels on the same cases.
        labels: The label definition, for the names.
    """
    rows = [["metric", "label", *names]]
    for metric in metrics_of_all(runs):
        form = ".2f" if metric.endswith("_mm") else ".4f"
        for key in runs[0].keys:
            name = labels.name_of(key)
            rows.append([HEADINGS[metric], name, *(_shown(run.mean[key][metric], form) for run in runs)])
        if len(runs[0].keys) > 1:
            means = [mean_score(run.values(metric)) for run in runs]
            rows.append([HEADINGS[metric], MEAN, *(_shown(mean, form) for mean in means)])
    return rows


def metrics_of_all(runs: Sequence[Summary]) -> list[str]:
    """The metrics of the tables that every run has."""
    return [metric for metric in BY_DEFAULT if all(metric in next(iter(run.mean.values()), {}) for run in runs)]


def _shown(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)
