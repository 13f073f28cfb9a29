"""What the scripts of a page read: scores of every case, and curves of every fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segflow.core.labels import LabelKey
from segflow.core.metrics import HEADINGS, LOWER_IS_BETTER, METRICS
from segflow.reporting.overlays import PALETTE
from segflow.reporting.reported_run import ReportedRun

MOST_NUMBERS = 600_000
"""Scores in a page; a browser gets slow with more. Metrics are left out until it is no more, Dice last."""


def page_data(runs: Sequence[ReportedRun]) -> dict[str, Any]:
    """Plain data of runs with the same labels.

    Returns:
        ``labels`` (name and colour), ``metrics`` (key, name, and whether lower is better) and ``runs``: for each its
        ``cases`` with the ``fold`` of each, ``scores`` (metric → label → case → value) and ``curves`` (fold → tag →
        epoch → value).
    """
    keys = next((run.summary.keys for run in runs if run.summary.cases), ())
    labels = runs[0].record.dataset.labels
    metrics = _metrics_of(runs, len(keys))
    return {
        "labels": [{"name": labels.name_of(key), "color": _color(key, place)} for place, key in enumerate(keys)],
        "metrics": [
            {"key": metric, "name": HEADINGS.get(metric, metric), "lower": metric in LOWER_IS_BETTER}
            for metric in metrics
        ],
        "runs": [_of_run(run, metrics) for run in runs],
    }


def _of_run(run: ReportedRun, metrics: Sequence[str]) -> dict[str, Any]:
    cases = run.summary.cases
    return {
        "name": run.name,
        "cases": [case.case_id for case in cases],
        "fold": [run.fold_of.get(case.case_id, "") for case in cases],
        "scores": {metric: run.summary.values(metric).T.tolist() if cases else [] for metric in metrics},
        "curves": {fold.fold: dict(curves) for fold, curves in zip(run.folds, run.curves, strict=True)},
    }


def _metrics_of(runs: Sequence[ReportedRun], labels: int) -> list[str]:
    """Metrics that every run with scores has: those of the tables first, then a user's own, then counts."""
    computed = [list(next(iter(run.summary.mean.values()), {})) for run in runs if run.summary.cases]
    shared = [metric for metric in (computed[0] if computed else []) if all(metric in one for one in computed)]
    first = [metric for metric in HEADINGS if metric in shared]
    own = [metric for metric in shared if metric not in METRICS]
    ordered = [*first, *own, *(metric for metric in shared if metric not in (*first, *own))]
    cases = sum(len(run.summary.cases) for run in runs)
    return ordered[: max(1, MOST_NUMBERS // max(1, cases * labels))]


def _color(key: LabelKey, place: int) -> str:
    """The colour of a label in pictures; regions, which overlap, have colours by their place."""
    index = key - 1 if isinstance(key, int) else place
    return "rgb({}, {}, {})".format(*PALETTE[index % len(PALETTE)])
