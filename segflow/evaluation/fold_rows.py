"""The scores of each fold as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from segflow.core.labels import Labels
from segflow.core.metrics import HEADINGS, Summary

OF_THE_MEAN = ("hd95_mm", "surface_dice")
"""Metrics of which a fold shows the mean over the labels, beside the Dice of each label."""


def fold_rows(summary: Summary, fold_of: Mapping[str, str], labels: Labels) -> list[list[str]]:
    """A heading, one row per fold, and mean and standard deviation over the folds.

    Args:
        summary: Scores of the validation cases of all folds.
        fold_of: Case → its fold.
        labels: The label definition, for the names.
    """
    parts: dict[str, Summary] = {}
    for name in dict.fromkeys(fold_of.values()):
        cases = [case for case in summary.cases if fold_of.get(case.case_id) == name]
        if cases:
            parts[name] = Summary.of_cases(cases)
    computed = next(iter(summary.mean.values()), {})
    others = [metric for metric in OF_THE_MEAN if metric in computed]
    several = len(summary.keys) > 1
    heading = [*(f"Dice {labels.name_of(key)}" for key in summary.keys), *(["Dice mean"] if several else [])]
    table = np.array([_numbers(part, others, several) for part in parts.values()])
    rows = [[name, str(len(parts[name].cases)), *map(_shown, row)] for name, row in zip(parts, table, strict=True)]
    if len(rows) > 1:
        spread = [f"{m:.3f} ± {s:.3f}" for m, s in zip(table.mean(0), table.std(0, ddof=1), strict=True)]
        rows.append(["mean ± sd", str(len(summary.cases)), *(text if "nan" not in text else "–" for text in spread)])
    return [["fold", "cases", *heading, *(HEADINGS[metric] for metric in others)], *rows]


def _numbers(part: Summary, others: list[str], several: bool) -> list[float]:
    dice = [part.mean[key]["Dice"] for key in part.keys]
    return [*dice, *([part.score] if several else []), *(part.foreground_mean[metric] for metric in others)]


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
