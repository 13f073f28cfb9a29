"""Runs compared case by case."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from segflow.core.labels import Labels
from segflow.core.metrics import CaseMetrics, Summary
from segflow.evaluation.paired import paired_differences, paired_rows, score_rows

LABELS = Labels.from_json({"background": 0, "organ": 1, "tumour": 2})
NAN, INF = math.nan, math.inf


def summary(organ: list[float], tumour: list[float], metric: str = "Dice") -> Summary:
    cases = [
        CaseMetrics(f"case_{place}", {1: {"Dice": 0.0, metric: one}, 2: {"Dice": 0.0, metric: two}}, "p", "r")
        for place, (one, two) in enumerate(zip(organ, tumour, strict=True))
    ]
    return Summary.of_cases(cases)


def test_the_difference_its_interval_and_its_test_are_those_of_the_pairs() -> None:
    generator = np.random.default_rng(0)
    first = generator.uniform(0.5, 0.9, 30)
    second = first + generator.normal(0.02, 0.02, 30)
    organ, tumour, mean = paired_differences(
        summary(list(first), [NAN] * 30), summary(list(second), [NAN] * 30), "Dice"
    )
    assert organ.key == 1
    assert organ.difference.mean == pytest.approx((second - first).mean())
    assert organ.difference.low < organ.difference.mean < organ.difference.high
    assert organ.difference.high - organ.difference.low == pytest.approx(
        2 * 1.96 * (second - first).std() / math.sqrt(30), rel=0.2
    )
    assert organ.p_value == wilcoxon(second, first).pvalue < 0.01
    assert (tumour.difference.cases, math.isnan(tumour.p_value), math.isnan(tumour.first)) == (0, True, True)
    assert mean.key is None
    assert mean.difference == organ.difference  # the other label occurs in no case


def test_only_cases_that_both_runs_have_a_finite_score_of_are_compared() -> None:
    first = summary([1.0, 2.0, INF, NAN, 5.0], [1.0] * 5, "hd95_mm")
    second = summary([2.0, NAN, 3.0, 4.0, INF], [1.0] * 5, "hd95_mm")
    organ, tumour, mean = paired_differences(first, second, "hd95_mm")
    assert (organ.first, organ.second, organ.difference.mean, organ.difference.cases) == (1.0, 2.0, 1.0, 1)
    assert organ.infinite == 2
    assert (tumour.difference.mean, tumour.difference.cases, math.isnan(tumour.p_value)) == (0.0, 5, True)
    assert mean.infinite == 2
    rows = [row[1:] for row in paired_rows(["one", "two"], [first, second], LABELS) if row[0] == "HD95 [mm]"]
    assert rows[0] == ["organ", "two", "1.00", "2.00", "+1.00", "–", "1", "1 (2 infinite left out)"]
    assert rows[1] == ["tumour", "two", "1.00", "1.00", "+0.00", "+0.00 … +0.00", "–", "5"]


def test_means_stand_side_by_side() -> None:
    runs = [summary([0.5, 0.7], [NAN, 0.4]), summary([0.9, 0.7], [NAN, 0.2])]
    assert score_rows(["one", "two"], runs, LABELS) == [
        ["metric", "label", "one", "two"],
        ["Dice", "organ", "0.6000", "0.8000"],
        ["Dice", "tumour", "0.4000", "0.2000"],
        ["Dice", "mean of labels", "0.5000", "0.5000"],
    ]
