"""A run's folds, scores and settings, read for a page. It works while the run is trained, with what there is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from segflow.apps import _changes
from segflow.apps._records import PathSettings
from segflow.core.errors import SegflowError
from segflow.core.metrics import CaseMetrics, Summary
from segflow.core.names import is_number
from segflow.core.run_record import RunRecord
from segflow.evaluation.all_scores import all_scores
from segflow.evaluation.read_scores import alike
from segflow.evaluation.summary import SUMMARY_FILE, read_scores_of
from segflow.execution.progress import Progress
from segflow.inference.predict_validation import validated_with
from segflow.reporting.reported_run import ReportedRun
from segflow.reporting.training_curves import epochs_of
from segflow.storage.find_folds import find_folds
from segflow.storage.folds import Fold


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a page's scores come from.

    Attributes:
        paths: Folders with the reference label maps.
        all_scores: Compute all scores of ``segflow evaluate``, not only show those of the validation.
        progress: Called after each case.
    """

    paths: PathSettings
    all_scores: bool
    progress: Progress


def read_run(folder: Path, name: str, scope: Scope) -> tuple[ReportedRun, list[str]]:
    """Read a run.

    Args:
        folder: Folder of the run, or of one of its folds.
        name: Its name in the page.
        scope: See `Scope`.

    Returns:
        The run, and remarks about what is missing, one sentence each.

    Raises:
        SegflowError: There is no run, or its records cannot be used.
    """
    run = ReportedRun.of(name, find_folds(folder))
    notes: list[str] = []
    cases: dict[str, CaseMetrics] = {}
    fold_of: dict[str, str] = {}
    failed: dict[str, str] = {}
    numbered = any(is_number(fold.fold) for fold in run.folds)
    for fold, record, curves in zip(run.folds, run.records, run.curves, strict=True):
        if not is_number(fold.fold) and numbered:
            continue  # it has seen the validation cases of the others
        if not (fold.validation / SUMMARY_FILE).is_file():
            notes.append(_unscored(fold, record, epochs_of(curves)))
            continue
        try:
            summary = _scores(fold, record, scope, notes)
        except SegflowError as error:
            notes.append(f"Fold {fold.fold} has no scores here: {error}")
            continue
        for case in summary.cases:
            cases[case.case_id], fold_of[case.case_id] = case, fold.fold
        failed |= summary.failed
    notes += _coverage(run, cases)
    scored = replace(run, summary=Summary.of_cases(alike(list(cases.values())), failed), fold_of=fold_of)
    return replace(scored, changes=_changes.changes(run.record), typed=_changes.typed(run.folds[0])), notes


def _scores(fold: Fold, record: RunRecord, scope: Scope, notes: list[str]) -> Summary:
    """The scores of a fold's validation cases, all of them if the references are there."""
    stored = read_scores_of(fold.validation, record.dataset.label_ending)
    try:
        validated_with(fold, record)
    except SegflowError as error:
        notes.append(str(error))
    references = scope.paths.references(record.dataset.name)
    if not scope.all_scores:
        return stored
    try:
        return all_scores(
            fold.validation,
            references,
            record.dataset.labels,
            file_ending=record.dataset.label_ending,
            reader=record.plans.reader,
            progress=scope.progress,
        )
    except SegflowError as error:
        notes.append(f"Only the scores that the validation of fold {fold.fold} wrote are shown: {error}")
        return stored


def _unscored(fold: Fold, record: RunRecord, epochs: int) -> str:
    trainer = record.settings.get("trainer") if not record.from_nnunet else None
    wanted = trainer.get("max_epochs") if isinstance(trainer, dict) else None
    if fold.is_finished():
        return f"Fold {fold.fold} is trained, and its validation cases are not scored."
    done = f"{epochs} of {wanted}" if wanted else str(epochs)
    return f"Fold {fold.fold} is not trained to its end: {done} epochs. It has no scores yet."


def _coverage(run: ReportedRun, cases: dict[str, CaseMetrics]) -> list[str]:
    """What the scores rest on, where that is not every training case."""
    if not cases:
        return []
    if not any(is_number(fold.fold) for fold in run.folds):
        return ["There is only the fold 'all', which was trained on the cases that it is scored on."]
    known = {case for record in run.records for case in (*record.train_cases, *record.val_cases)}
    if len(cases) < len(known):
        return [f"The scores are those of {len(cases)} of {len(known)} training cases: not every fold is validated."]
    return []
