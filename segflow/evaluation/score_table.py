"""Scores of several trainings, brought to the same cases, patients, labels and metrics."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.labels import key_text
from segflow.core.metrics import Summary
from segflow.core.wording import counted, some


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores of one training, or of anything else that was scored.

    Attributes:
        name: Its name.
        cases: Case ids.
        labels: Labels and regions, as ``summary.json`` writes them: ``1``, ``(1, 2)``.
        values: Metric → float64 (cases, labels), NaN where it is undefined.
        absent: bool (cases, labels), true where the label is neither in the reference nor in the prediction.
    """

    name: str
    cases: tuple[str, ...]
    labels: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    absent: np.ndarray

    @classmethod
    def of_summary(cls, name: str, summary: Summary) -> ScoreTable:
        """The scores of a summary.

        Raises:
            SegflowError: A case stands in it twice.
        """
        cases = tuple(case.case_id for case in summary.cases)
        refuse_twice(name, cases)
        metrics = next(iter(summary.mean.values()), {})
        absent = (summary.values("n_ref") == 0) & (summary.values("n_pred") == 0)
        labels = tuple(key_text(key) for key in summary.keys)
        return cls(name, cases, labels, {metric: summary.values(metric) for metric in metrics}, absent)

    def on(self, cases: Sequence[str]) -> ScoreTable:
        """The scores of some of the cases, in this order."""
        place = {case: number for number, case in enumerate(self.cases)}
        rows = [place[case] for case in cases]
        values = {metric: table[rows] for metric, table in self.values.items()}
        return replace(self, cases=tuple(cases), values=values, absent=self.absent[rows])

    def of_patients(self, patient_of: Mapping[str, str]) -> ScoreTable:
        """The means over the cases of each patient, which stand in the place of the cases.

        Args:
            patient_of: Case → patient. A case without one is a patient of its own.
        """
        patients = [patient_of.get(case, case) for case in self.cases]
        names = tuple(dict.fromkeys(patients))
        rows = [[number for number, patient in enumerate(patients) if patient == name] for name in names]
        values = {
            metric: np.stack([mean_of_defined(table[own]) for own in rows]) for metric, table in self.values.items()
        }
        return replace(
            self, cases=names, values=values, absent=np.stack([self.absent[own].all(axis=0) for own in rows])
        )


def refuse_twice(name: str, cases: Sequence[str]) -> None:
    """Refuse scores in which a case stands twice.

    Raises:
        SegflowError: There is one.
    """
    if len(set(cases)) < len(cases):
        twice = sorted({case for case in cases if cases.count(case) > 1})
        raise SegflowError(f"{name} has two scores of one case", found=some(twice))


def on_common_cases(tables: Sequence[ScoreTable]) -> tuple[list[ScoreTable], list[str]]:
    """The tables with the cases that all have, in the order of their names.

    Returns:
        The tables, and a remark for each that has further cases.

    Raises:
        SegflowError: The labels differ, or no case is common.
    """
    first = tables[0]
    for table in tables[1:]:
        if set(table.labels) != set(first.labels):
            raise SegflowError(
                "only scores of the same labels can be compared",
                found=f"{first.name}: {', '.join(first.labels)}; {table.name}: {', '.join(table.labels)}",
            )
    common = set.intersection(*(set(table.cases) for table in tables))
    if not common:
        raise SegflowError(
            "there is no case that all have a score of",
            found="; ".join(f"{table.name}: {some(sorted(table.cases), most=3)}" for table in tables),
            fix="Compare scores of the same cases: the same folds of each run, or predictions of the same images.",
        )
    notes = []
    for table in tables:
        others = sorted(set(table.cases) - common)
        if others:
            notes.append(f"{table.name} has {counted(len(others), 'further case')}, not compared: {some(others)}")
    ordered = sorted(common)
    return [_in_order(table, first.labels).on(ordered) for table in tables], notes


def _in_order(table: ScoreTable, labels: Sequence[str]) -> ScoreTable:
    columns = [table.labels.index(label) for label in labels]
    values = {metric: scores[:, columns] for metric, scores in table.values.items()}
    return replace(table, labels=tuple(labels), values=values, absent=table.absent[:, columns])


def mean_of_defined(table: np.ndarray, axis: int = 0) -> np.ndarray:
    """Mean along an axis, of an array of any shape, over what is not NaN; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what has no score at all
        return np.asarray(np.nanmean(table, axis=axis))
