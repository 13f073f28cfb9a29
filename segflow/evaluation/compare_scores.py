"""Scores of several settings → whether they differ, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from segflow.core.comparison import MEAN, Comparison, Noise, Rank, Row
from segflow.core.errors import SegflowError
from segflow.core.metrics import LOWER_IS_BETTER, METRICS
from segflow.core.wording import counted, some
from segflow.evaluation.compare_settings import CompareSettings
from segflow.evaluation.paired import Column, compare_pair, corrected
from segflow.evaluation.ranking import rank_settings
from segflow.evaluation.score_table import ScoreTable, mean_of_defined, on_common_cases
from segflow.evaluation.seed_noise import spread_of_seeds
from segflow.storage.patients import patients_by_name
from segflow.storage.split_files import values_of_cases

BY_DEFAULT = ("Dice", "hd95_mm", "surface_dice")
"""Metrics that are compared, where every run has them."""
OTHER_NAMES = {"hd95": "hd95_mm", "nsd": "surface_dice", "assd": "mean_surface_distance_mm"}
_NEITHER = ("volume_difference", "volume_difference_mm3", "n_pred", "n_ref", "TP", "TN")
"""Metrics of which neither a higher nor a lower value is better."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A setting that is compared.

    Attributes:
        name: Its name.
        trainings: Scores of each of its trainings, which differ by their seed.
    """

    name: str
    trainings: tuple[ScoreTable, ...]


def compare_scores(
    contenders: Sequence[Contender],
    settings: CompareSettings | None = None,
    label_names: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare settings on the cases that all their trainings have.

    Args:
        contenders: The settings.
        settings: See `CompareSettings`.
        label_names: Label as ``summary.json`` writes it → its name.

    Raises:
        SegflowError: There is no common case, the labels differ, or a metric is missing or has no better side.
    """
    settings = settings or CompareSettings()
    tables, notes = on_common_cases([table for contender in contenders for table in contender.trainings])
    signs, left_out = _signs(tables, settings)
    cases = tables[0].cases
    patient_of, told = _patients(cases, settings.group_by)
    tables = [table.of_patients(patient_of) for table in tables] if patient_of else tables
    groups, columns = _columns(contenders, tables, signs)
    labels = [(label_names or {}).get(label, label) for label in tables[0].labels]
    names = [*([MEAN] if len(labels) > 1 else []), *labels]
    pairs = list(combinations(range(len(groups)), 2))
    rows = [row for metric in signs for row in _rows(metric, names, pairs, [own[metric] for own in columns], settings)]
    return Comparison(
        settings=tuple(contender.name for contender in contenders),
        trainings=tuple(tuple(table.name for table in group) for group in groups),
        metrics=tuple(signs),
        labels=tuple(labels),
        cases=cases,
        patients=len(tables[0].cases),
        rows=tuple(rows),
        noise=tuple(_noise(place, metric, own[metric][0]) for place, own in enumerate(columns) for metric in signs),
        ranks=tuple(_ranks(columns, settings) if pairs else ()),
        notes=(*notes, *told, *left_out, *_too_few(groups, len(pairs), settings), *_unknown_noise(groups, contenders)),
        correction=settings.correction,
        alpha=settings.alpha,
        spots={metric: np.stack([mean_of_defined(own[metric][0].values) for own in columns]) for metric in signs},
    )


def _signs(tables: Sequence[ScoreTable], settings: CompareSettings) -> tuple[dict[str, int], list[str]]:
    """Metric → 1 if higher is better, else -1; and remarks about metrics that not all have."""
    shared = [metric for metric in tables[0].values if all(metric in table.values for table in tables)]
    known = {name.lower(): name for name in shared}
    lower = {*LOWER_IS_BETTER, *settings.lower_is_better}
    if settings.metric is None:
        chosen = [metric for metric in BY_DEFAULT if metric in shared]
        notes = []
        for metric in BY_DEFAULT:
            lacking = [table.name for table in tables if metric not in table.values]
            if metric not in shared and len(lacking) < len(tables):
                notes.append(f"{metric} is not compared, since there is none of {some(lacking)}.")
    else:
        chosen, notes = [], []
        for name in dict.fromkeys(settings.metric):
            wanted = OTHER_NAMES.get(name.lower(), name).lower()
            if wanted not in known:
                lacking = [table.name for table in tables if wanted not in map(str.lower, table.values)]
                raise SegflowError(f"metric '{name}' is missing in {some(lacking)}", expected=", ".join(shared))
            chosen.append(known[wanted])
    if not chosen:
        raise SegflowError("the scores have no metric in common that can be compared", expected=", ".join(BY_DEFAULT))
    neither = [metric for metric in chosen if metric in _NEITHER]
    if neither:
        better = [metric for metric in METRICS if metric not in _NEITHER and metric in shared]
        raise SegflowError(f"of {neither[0]} neither more nor less is better", expected=", ".join(better))
    return {metric: -1 if metric in lower else 1 for metric in chosen}, notes


def _patients(cases: Sequence[str], group_by: str | None) -> tuple[dict[str, str], list[str]]:
    """Case → patient where a patient has several cases, and a remark."""
    found = dict(values_of_cases(cases, group_by)) if group_by else patients_by_name(cases)[0]
    patients = len({found.get(case, case) for case in cases})
    if patients == len(cases):
        return {}, []
    how = "" if group_by else " by their names; group_by= says otherwise"
    return found, [f"The {counted(len(cases), 'case')} are of {counted(patients, 'patient')}{how}. Each counts as one."]


Columns = dict[str, list[Column]]
"""Metric → columns of the mean of labels, if there are several labels, and of each label."""


def _columns(
    contenders: Sequence[Contender], tables: Sequence[ScoreTable], signs: Mapping[str, int]
) -> tuple[list[Sequence[ScoreTable]], list[Columns]]:
    """The tables of each setting, and their columns."""
    groups, begin = [], 0
    for contender in contenders:
        groups.append(tables[begin : begin + len(contender.trainings)])
        begin += len(contender.trainings)
    return groups, [{metric: _of_metric(group, metric, sign) for metric, sign in signs.items()} for group in groups]


def _of_metric(tables: Sequence[ScoreTable], metric: str, sign: int) -> list[Column]:
    values = np.stack([table.values[metric] for table in tables])
    absent = np.stack([table.absent for table in tables])
    labels = [Column(values[..., number], absent[..., number], sign) for number in range(values.shape[2])]
    return (
        labels
        if len(labels) == 1
        else [Column(mean_of_defined(values, 2), np.asarray(absent.all(axis=2)), sign), *labels]
    )


def _rows(
    metric: str,
    names: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    columns: Sequence[Sequence[Column]],
    settings: CompareSettings,
) -> list[Row]:
    """All pairs in a metric. The p-values of the means are one family, those of single labels another one."""
    found: list[Row] = []
    for places in ([0], range(1, len(names))):
        where = [(place, *pair) for place in places for pair in pairs]
        tested = [
            compare_pair(
                columns[first][place], columns[second][place], alpha=settings.alpha, resamples=settings.resamples
            )
            for place, first, second in where
        ]
        found += [
            Row(metric, names[place], first, second, pair)
            for (place, first, second), pair in zip(where, corrected(tested, settings.correction), strict=True)
        ]
    return found


def _noise(setting: int, metric: str, column: Column) -> Noise:
    finite = column.values[:, np.isfinite(column.values).all(axis=0)]
    means = tuple(map(float, finite.mean(axis=1))) if finite.size else (float("nan"),) * len(column.values)
    return Noise(setting, metric, means, spread_of_seeds(finite))


def _ranks(columns: Sequence[Columns], settings: CompareSettings) -> list[Rank]:
    single = [[column for kind in own.values() for column in (kind[1:] if len(kind) > 1 else kind)] for own in columns]
    return rank_settings(
        single, confidence=1 - settings.alpha, correction=settings.correction, resamples=settings.resamples
    )


def _too_few(groups: Sequence[Sequence[ScoreTable]], pairs: int, settings: CompareSettings) -> list[str]:
    """A remark if even a run that is better in every case could not be told apart by Wilcoxon's test."""
    count = len(groups[0][0].cases)
    lowest = min(1.0, 2.0 ** (1 - count) * (1 if settings.correction == "none" else pairs))
    if not pairs or any(len(group) > 1 for group in groups) or lowest < settings.alpha:
        return []
    return [f"So few cases ({count}) tell no runs apart: even if one is better in every case, p is {lowest:.2g}."]


def _unknown_noise(groups: Sequence[Sequence[ScoreTable]], contenders: Sequence[Contender]) -> list[str]:
    single = [contender.name for contender, group in zip(contenders, groups, strict=True) if len(group) == 1]
    if not single:
        return []
    if len(single) == len(groups):
        return [
            "Seed noise is unknown: there is one training of each, and another seed may give another verdict. "
            "Intervals and p-values are about other cases only."
        ]
    return [f"There is one training of {some(single)}. Its seed noise is taken to be that of the setting beside it."]
