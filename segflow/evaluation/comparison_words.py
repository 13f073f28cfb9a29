"""A comparison in words and tables, as JSON and as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segflow.core.comparison import Comparison, Pair, Row
from segflow.core.metrics import HEADINGS
from segflow.core.wording import counted

PAIR_HEADINGS = ("metric", "label", "A", "B", "mean A", "mean B", "B - A", "interval", "p", "effect", "better in B")
RANK_HEADINGS = ("place", "setting", "mean rank", "first", "places", "p to the next")

OF_PAIRS = (
    "Over the cases in which both have a finite score: the mean of each, and the mean difference with its confidence "
    "interval. p is corrected for the number of comparisons. The effect is the rank-biserial correlation, from -1 (B "
    "is worse in every case) to 1 (B is better in every case). The last column counts cases in which B is better, "
    "worse and equal; an infinite distance is the worst score there."
)
OF_RANKS = (
    "Every setting is ranked in every case, label and metric, and the mean of its ranks is shown. 'first' is how often "
    "it comes first, and 'places' where it comes, if cases (and seeds) are drawn again. p is that of a permutation "
    "test of ranks against the next place. It knows nothing of seeds, and is left out where there are several."
)


def verdicts(comparison: Comparison) -> list[str]:
    """A sentence for every pair in every metric, about the mean of the labels; or about the seeds of one setting."""
    if len(comparison.settings) == 1:
        return [
            f"{comparison.settings[0]}: {_number(sum(one.means) / len(one.means), one.metric)} {_name(one.metric)}, "
            f"standard deviation between {len(one.means)} seeds {_number(one.spread, one.metric)}"
            for one in comparison.noise
        ]
    return [verdict(comparison, row) for metric in comparison.metrics for row in comparison.rows_of(metric)]


def verdict(comparison: Comparison, row: Row) -> str:
    """``B is better than A: +0.0120 Dice [0.0040, 0.0200], p = 0.003 (Holm), better in 38 of 50 cases``."""
    first, second, pair = comparison.settings[row.first], comparison.settings[row.second], row.pair
    winner = pair.winner(comparison.alpha)
    total = pair.better + pair.worse + pair.equal
    if not total:
        return f"{first} and {second}: no score of {_name(row.metric)} in common"
    if pair.equal == total:
        return f"{first} and {second} have the same {_name(row.metric)} in {counted(total, comparison.unit)}"
    sign, better, say = (-1, pair.worse, first) if winner < 0 else (1, pair.better, second)
    numbers = _difference(pair, row.metric, sign)
    count = f"{better} of {counted(total, comparison.unit)}"
    p = f"p {_p_text(pair.corrected)}{_corrected(comparison)}"
    if not winner:
        return f"{first} and {second} are not distinguishable: {numbers}, {p}, {second} is better in {count}"
    return f"{say} is better than {first if winner > 0 else second}: {numbers}, {p}, better in {count}"


def pair_rows(comparison: Comparison) -> list[list[str]]:
    """Every pair in every metric and label as a table, the heading first."""
    rows = [list(PAIR_HEADINGS)]
    for row in comparison.rows:
        pair, metric = row.pair, row.metric
        numbers = (_number(pair.first_mean, metric), _number(pair.second_mean, metric))
        left = f"{pair.better} / {pair.worse} / {pair.equal}"
        rows.append(
            [
                HEADINGS.get(metric, metric),
                row.label,
                comparison.settings[row.first],
                comparison.settings[row.second],
                *numbers,
                _number(pair.difference, metric, "+"),
                _interval(pair, metric, 1),
                _p(pair.corrected),
                f"{pair.effect:+.2f}",
                left,
            ]
        )
    return rows


def rank_rows(comparison: Comparison) -> list[list[str]]:
    """The settings by rank as a table, the heading first."""
    rows = [list(RANK_HEADINGS)]
    for rank in comparison.ranks:
        name = comparison.settings[rank.setting]
        places = f"{rank.low:g} to {rank.high:g}"
        rows.append([f"{rank.place:g}", name, f"{rank.rank:.2f}", f"{100 * rank.first:.0f} %", places, _p(rank.p_next)])
    return rows


def mean_rows(comparison: Comparison) -> list[list[str]]:
    """Mean of every setting in every metric, with the spread between its seeds, the heading first."""
    rows = [["setting", "trainings", *(HEADINGS.get(metric, metric) for metric in comparison.metrics)]]
    for place, name in enumerate(comparison.settings):
        own = [one for one in comparison.noise if one.setting == place]
        cells = []
        for one in own:
            mean = _number(sum(one.means) / len(one.means), one.metric)
            cells.append(mean if math.isnan(one.spread) else f"{mean} ± {_number(one.spread, one.metric)}")
        rows.append([name, str(len(comparison.trainings[place])), *cells])
    return rows


def left_out(comparison: Comparison) -> list[str]:
    """A sentence for each metric in which cases are missing from means."""
    told = []
    for metric in comparison.metrics:
        pairs = [row.pair for row in comparison.rows_of(metric)]
        infinite, single = (
            max((getattr(pair, name) for pair in pairs), default=0) for name in ("infinite", "one_sided")
        )
        if infinite:
            told.append(
                f"{_name(metric)} is infinite in up to {counted(infinite, comparison.unit)} of a pair: left out of "
                "means and intervals, and the worst score in tests with one seed each, counts and ranks."
            )
        if single:
            told.append(
                f"{_name(metric)} is undefined in one of a pair in up to {counted(single, comparison.unit)}: left out "
                "of means; in counts and ranks a rightly absent label is the best score, and no score the worst."
            )
    return told


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Plain JSON of everything that was found."""
    names = comparison.settings
    return {
        "format": 1,
        "settings": [
            {"name": name, "trainings": list(own)} for name, own in zip(names, comparison.trainings, strict=True)
        ],
        "metrics": list(comparison.metrics),
        "labels": list(comparison.labels),
        "cases": list(comparison.cases),
        "counted": {"what": f"{comparison.unit}s", "number": comparison.patients},
        "correction": comparison.correction,
        "alpha": comparison.alpha,
        "verdicts": verdicts(comparison),
        "notes": [*comparison.notes, *left_out(comparison)],
        "pairs": [_row_json(comparison, row) for row in comparison.rows],
        "seeds": [
            {"setting": names[one.setting], "metric": one.metric, "means": list(one.means), "spread": one.spread}
            for one in comparison.noise
        ],
        "ranks": [{**asdict(rank), "setting": names[rank.setting]} for rank in comparison.ranks],
    }


def write_csv(comparison: Comparison, file: Path) -> None:
    """Write every pair in every metric and label, a row for each."""
    rows = [_row_json(comparison, row) for row in comparison.rows]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else ["metric", "label"])
        writer.writeheader()
        writer.writerows(rows)


def _row_json(comparison: Comparison, row: Row) -> dict[str, Any]:
    winner = row.pair.winner(comparison.alpha)
    better = comparison.settings[row.second if winner > 0 else row.first] if winner else ""
    numbers = {name: value for name, value in asdict(row.pair).items() if name != "sign"}
    numbers = {"p_corrected" if name == "corrected" else name: value for name, value in numbers.items()}
    return {
        "metric": row.metric,
        "label": row.label,
        "first": comparison.settings[row.first],
        "second": comparison.settings[row.second],
        **numbers,
        "distinguishable": bool(winner),
        "better_setting": better,
    }


def _difference(pair: Pair, metric: str, sign: int) -> str:
    unit = "mm " if metric.endswith("_mm") else ""
    return f"{_number(sign * pair.difference, metric, '+')} {unit}{_name(metric)} [{_interval(pair, metric, sign)}]"


def _interval(pair: Pair, metric: str, sign: int) -> str:
    if math.isnan(pair.low):
        return "–"
    ends: Sequence[float] = sorted((sign * pair.low, sign * pair.high))
    return ", ".join(_number(end, metric, "+") for end in ends)


def _corrected(comparison: Comparison) -> str:
    several = len(comparison.settings) > 2 and comparison.correction != "none"
    return f" ({comparison.correction.title()})" if several else ""


def _name(metric: str) -> str:
    return HEADINGS.get(metric, metric).removesuffix(" [mm]")


def _number(value: float, metric: str, sign: str = "") -> str:
    """Four decimals of a share, two of millimetres."""
    return "–" if math.isnan(value) else format(value, f"{sign}.{2 if metric.endswith('_mm') else 4}f")


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _p_text(value: float) -> str:
    return _p(value) if value < 0.001 else f"= {_p(value)}"
