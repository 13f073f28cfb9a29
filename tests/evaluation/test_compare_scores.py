"""Scores of several settings are compared, in tables and words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from segflow.core.comparison import MEAN, Comparison
from segflow.core.errors import SegflowError
from segflow.core.metrics import OVERLAP_METRICS, CaseMetrics, Summary
from segflow.evaluation.compare_scores import Contender, compare_scores
from segflow.evaluation.compare_settings import CompareSettings
from segflow.evaluation.comparison_words import left_out, mean_rows, pair_rows, rank_rows, to_json, verdicts, write_csv
from segflow.evaluation.score_table import ScoreTable

CASES = [f"scan_{chr(97 + number // 5)}{chr(97 + number % 5)}" for number in range(20)]

SHIFTS = (("A", 0.0), ("B", 0.01), ("C", 0.03))


def table(
    name: str, values: Mapping[str, object], cases: Sequence[str] = CASES, labels: Sequence[str] = ("1",)
) -> ScoreTable:
    tables = {metric: np.asarray(value, dtype=np.float64).reshape(len(cases), -1) for metric, value in values.items()}
    return ScoreTable(name, tuple(cases), tuple(labels), tables, np.zeros((len(cases), len(labels)), bool))


def compared(*tables: ScoreTable, names: Mapping[str, str] | None = None, **settings: object) -> Comparison:
    contenders = [Contender(one.name, (one,)) for one in tables]
    return compare_scores(contenders, CompareSettings(**settings), names)  # type: ignore[arg-type]


@pytest.fixture
def dice() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.6, 0.9, len(CASES))


def test_a_clear_difference_is_said_in_words(dice: np.ndarray) -> None:
    found = compared(table("A", {"Dice": dice}), table("B", {"Dice": dice + np.linspace(0.005, 0.015, 20)}))
    (line,) = verdicts(found)
    assert line.startswith("B is better than A: +0.0100 Dice [+0.00")
    assert line.endswith("p < 0.001, better in 20 of 20 cases")
    turned = compared(table("A", {"Dice": dice + np.linspace(0.005, 0.015, 20)}), table("B", {"Dice": dice}))
    assert verdicts(turned)[0].startswith("A is better than B: +0.0100 Dice [+0.00")


def test_equal_settings_are_said_to_be_not_distinguishable(dice: np.ndarray) -> None:
    noise = np.random.default_rng(5).normal(0, 0.02, 20)
    (line,) = verdicts(compared(table("A", {"Dice": dice}), table("B", {"Dice": dice + noise})))
    assert line.startswith("A and B are not distinguishable: ")
    (same,) = verdicts(compared(table("A", {"Dice": dice}), table("B", {"Dice": dice})))
    assert same == "A and B have the same Dice in 20 cases"


def test_cases_in_another_order_and_further_ones_are_brought_together(dice: np.ndarray) -> None:
    whole = table("A", {"Dice": dice})
    fewer = table("B", {"Dice": dice[::-1][:15] + 0.01}, cases=CASES[::-1][:15])
    found = compared(whole, fewer)
    assert found.cases == tuple(CASES[5:])
    (row,) = found.rows
    assert row.pair.difference == pytest.approx(0.01)
    assert "A has 5 further cases, not compared: scan_aa, scan_ab, scan_ac, scan_ad, scan_ae" in found.notes


def test_what_cannot_be_compared_is_refused_by_name(dice: np.ndarray) -> None:
    first = table("A", {"Dice": dice})
    with pytest.raises(SegflowError, match=r"no case that all have.*A: scan_aa.*B: other"):
        compared(first, table("B", {"Dice": [0.5]}, cases=["other"]))
    with pytest.raises(SegflowError, match=r"same labels.*A: 1; B: 1, \(1, 2\)"):
        compared(first, table("B", {"Dice": np.zeros((20, 2))}, labels=("1", "(1, 2)")))
    with pytest.raises(SegflowError, match="metric 'hd95' is missing in B"):
        compared(table("A", {"Dice": dice, "hd95_mm": dice}), table("B", {"Dice": dice}), metric=["hd95"])
    both = {"Dice": dice, "volume_difference": dice}
    with pytest.raises(SegflowError, match="volume_difference neither more nor less is better; expected Dice"):
        compared(table("A", both), table("B", both), metric=["volume_difference"])
    with pytest.raises(SegflowError, match="no metric in common"):
        compared(table("A", {"mine": dice}), table("B", {"mine": dice}))
    for wrong in ({"correction": "fdr"}, {"alpha": 1.5}, {"resamples": 1}):
        with pytest.raises(SegflowError, match=next(iter(wrong))):
            CompareSettings(**wrong)  # type: ignore[arg-type]


def test_metrics_are_those_that_all_have_or_are_named(dice: np.ndarray) -> None:
    first = table("A", {"Dice": dice, "hd95_mm": 10 - dice, "mine": dice})
    second = table("B", {"Dice": dice, "mine": dice - 0.1})
    found = compared(first, second)
    assert found.metrics == ("Dice",)
    assert "hd95_mm is not compared, since there is none of B." in found.notes
    assert compared(first, second, metric=["DICE", "mine"]).metrics == ("Dice", "mine")
    assert "A is better" in verdicts(compared(first, second, metric=["mine"]))[0]
    assert "B is better" in verdicts(compared(first, second, metric=["mine"], lower_is_better=["mine"]))[0]


def test_means_of_labels_and_labels_are_families_of_their_own(dice: np.ndarray) -> None:
    generator = np.random.default_rng(1)
    tables = [
        table(name, {"Dice": dice[:, None] + generator.normal(shift, 0.02, (20, 2))}, labels=("1", "(1, 2)"))
        for name, shift in (("A", 0.0), ("B", 0.015), ("C", 0.0))
    ]
    found = compared(*tables, names={"1": "organ", "(1, 2)": "whole"})
    assert found.labels == ("organ", "whole")
    assert [row.label for row in found.rows] == [MEAN] * 3 + ["organ"] * 3 + ["whole"] * 3
    means, labels = found.rows[:3], found.rows[3:]
    for family in (means, labels):
        smallest = min(row.pair.p_value for row in family)
        assert min(row.pair.corrected for row in family) == pytest.approx(min(1, smallest * len(family)))
    assert all(row.pair.corrected == row.pair.p_value for row in compared(*tables, correction="none").rows)


def test_cases_of_a_patient_count_as_one() -> None:
    names = [f"patient{number:02d}_visit{visit}" for number in range(10) for visit in (1, 2)]
    values = np.random.default_rng(0).uniform(0.6, 0.9, 20)
    first, second = (table(name, {"Dice": values + shift}, cases=names) for name, shift in (("A", 0.0), ("B", 0.01)))
    found = compared(first, second)
    assert (found.patients, found.unit, found.rows[0].pair.better) == (10, "patient", 10)
    assert any(note.startswith("The 20 cases are of 10 patients by their names") for note in found.notes)
    assert verdicts(found)[0].endswith("10 of 10 patients")
    assert compared(first, second, group_by=".*").patients == 20
    assert compared(first, second, group_by=r"patient(\d)").patients == 1


def test_seeds_of_a_setting_are_compared_together(dice: np.ndarray) -> None:
    generator = np.random.default_rng(2)

    def seeds(name: str, shift: float) -> Contender:
        return Contender(
            name, tuple(table(f"{name}{k}", {"Dice": dice + shift + generator.normal(0, 0.005, 20)}) for k in range(3))
        )

    found = compare_scores([seeds("A", 0.0), seeds("B", 0.02)])
    assert found.rows[0].pair.test == "seeds and cases"
    assert verdicts(found)[0].startswith("B is better than A")
    assert mean_rows(found)[0] == ["setting", "trainings", "Dice"]
    assert mean_rows(found)[1][:2] == ["A", "3"]
    assert "±" in mean_rows(found)[1][2]
    assert not any("unknown" in note for note in found.notes)
    alone = compare_scores([seeds("A", 0.0)])
    assert (alone.rows, alone.ranks) == ((), ())
    assert "standard deviation between 3 seeds" in verdicts(alone)[0]


def test_one_training_of_each_says_that_the_noise_of_seeds_is_unknown(dice: np.ndarray) -> None:
    found = compared(table("A", {"Dice": dice}), table("B", {"Dice": dice - 0.01}))
    assert any("Seed noise is unknown" in note for note in found.notes)


def test_so_few_cases_that_no_test_can_decide_are_told(dice: np.ndarray) -> None:
    def told(count: int) -> list[str]:
        tables = [table(name, {"Dice": dice[:count] + shift}, cases=CASES[:count]) for name, shift in SHIFTS]
        found = compared(*tables)
        assert all((row.pair.corrected < 0.05) == (count == 8) for row in found.rows)
        return [note for note in found.notes if "So few cases" in note]

    assert told(6) == ["So few cases (6) tell no runs apart: even if one is better in every case, p is 0.094."]
    assert told(8) == []


def test_everything_stands_in_tables_and_files(dice: np.ndarray, tmp_path: Path) -> None:
    distance = 10 - 5 * dice
    distance[3] = math.inf
    found = compared(
        table("A", {"Dice": dice, "hd95_mm": distance}), table("B", {"Dice": dice + 0.01, "hd95_mm": distance - 0.5})
    )
    rows = pair_rows(found)
    assert rows[2][:4] == ["HD95 [mm]", "1", "A", "B"]
    assert rows[2][6] == "-0.50"
    assert rows[1][-1] == "20 / 0 / 0"
    assert [row[1] for row in rank_rows(found)] == ["setting", "B", "A"]
    assert any(note.startswith("HD95 is infinite in up to 1 case") for note in left_out(found))
    write_csv(found, tmp_path / "c.csv")
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert lines[0].startswith(
        "metric,label,first,second,first_mean,second_mean,difference,low,high,p_value,p_corrected"
    )
    assert lines[1].endswith(",True,B")
    content = json.loads(json.dumps(to_json(found)))
    assert content["verdicts"] == verdicts(found)
    assert content["pairs"][0]["better_setting"] == "B"
    assert content["ranks"][0]["setting"] == "B"


def test_a_case_that_stands_twice_is_refused() -> None:
    scores = {1: dict.fromkeys(OVERLAP_METRICS, 0.5)}
    twice = Summary.of_cases([CaseMetrics("a", scores, "p", "r"), CaseMetrics("a", scores, "p", "r")])
    with pytest.raises(SegflowError, match="two scores of one case; found a"):
        ScoreTable.of_summary("A", twice)
