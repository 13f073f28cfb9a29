"""A run as a page shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.metrics import CaseMetrics, Summary, mean_of_defined
from segflow.core.run_record import RunRecord
from segflow.reporting.training_curves import Curves, read_curves
from segflow.storage.folds import Fold
from segflow.storage.json_files import read_json


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """A run, or a single fold.

    Attributes:
        name: A short name that tells it apart from the other runs of the page.
        folds: Its folds, with or without weights.
        records: Record of each fold.
        curves: Curves of each fold.
        endings: What each fold noted at its end, such as ``peak_memory_gib``; empty while it is trained.
        summary: Scores of the validation cases; without cases while there are none.
        fold_of: Case → name of the fold that validated it.
        changes: Settings that differ from the defaults; None if they cannot be compared.
        typed: The settings as typed on the command line that trained it; empty if they are not known.
    """

    name: str
    folds: Sequence[Fold]
    records: Sequence[RunRecord]
    curves: Sequence[Curves]
    endings: Sequence[Mapping[str, Any]] = ()
    summary: Summary = field(default_factory=lambda: Summary.of_cases([]))
    fold_of: Mapping[str, str] = field(default_factory=dict)
    changes: Sequence[Change] | None = None
    typed: Sequence[str] = ()

    @classmethod
    def of(cls, name: str, folds: Sequence[Fold]) -> ReportedRun:
        """Read the records and curves of folds.

        Raises:
            SegflowError: A fold was never trained, or a file of it cannot be used.
        """
        if not folds:
            raise SegflowError("a report needs at least one fold", fix="Train first: segflow train")
        records = [fold.read_record() for fold in folds]
        return cls(
            name, tuple(folds), records, [read_curves(fold) for fold in folds], [_ending(fold) for fold in folds]
        )

    @property
    def record(self) -> RunRecord:
        """The record of its first fold, whose settings are those of all."""
        return self.records[0]


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that differs from its default.

    Attributes:
        setting: Its dotted name.
        default: Its default in words; empty if there is none.
        value: Its value in words; empty if it is absent.
    """

    setting: str
    default: str
    value: str


def _ending(fold: Fold) -> Mapping[str, Any]:
    content = read_json(fold.finished_file) if fold.finished_file.is_file() else {}
    return content if isinstance(content, Mapping) else {}


def case_score(case: CaseMetrics) -> float:
    """Mean Dice over the foreground labels or regions in which it is defined; NaN if there are none."""
    return mean_of_defined([scores["Dice"] for key, scores in case.metrics.items() if key != 0])
