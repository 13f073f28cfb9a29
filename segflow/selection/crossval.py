"""The validation cases of all folds of a run, in one folder (recipe 13.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.metrics import Summary
from segflow.core.names import is_number
from segflow.core.run_record import RunRecord
from segflow.evaluation.evaluate_cases import evaluate_cases
from segflow.evaluation.evaluate_settings import EvaluateSettings, overlap_only
from segflow.execution.progress import Progress, silent
from segflow.inference.predict_validation import VALIDATE_AGAIN, validated_with
from segflow.inference.stored_probabilities import StoredProbabilities
from segflow.storage.file_stamps import Origin
from segflow.storage.find_folds import find_folds
from segflow.storage.folder_files import is_image_path
from segflow.storage.folds import Fold
from segflow.storage.images import reader_by_name
from segflow.storage.label_map_files import copy_label_map, remove_label_map
from segflow.storage.predictions import Predictions, Wanted
from segflow.storage.runs import Run

log = logging.getLogger(__name__)

VALIDATE_FIRST = "Run the same 'segflow train' command again; it predicts what is missing."


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """A run with the label maps of all its validation cases.

    Attributes:
        run: The run's folder, above its folds.
        folder: Folder with all its label maps.
        record: Record of its first fold, with the settings of inference that made its label maps.
        folds: Names of its folds, such as ``0``.
        cases: Case → the fold that did not see it in training.
        summary: Scores of the label maps.
        notes: Remarks for the user, one sentence each.
    """

    run: Path
    folder: Path
    record: RunRecord
    folds: tuple[str, ...]
    cases: Mapping[str, Fold]
    summary: Summary
    notes: tuple[str, ...] = ()

    def probabilities(self, case_id: str) -> StoredProbabilities:
        """The stored probabilities of a case's fold.

        Raises:
            SegflowError: The fold stored none.
        """
        reader = reader_by_name(self.record.plans.reader)
        return StoredProbabilities(self.cases[case_id].validation, self.record.dataset.labels, reader)

    def has_probabilities(self) -> bool:
        """Whether every case can take part in an ensemble."""
        try:
            return all(self.probabilities(case_id).has(case_id) for case_id in self.cases)
        except SegflowError:
            return False


def accumulate_crossval(
    run: Path, reference: Path, *, processes: int | None = None, progress: Progress = silent
) -> CrossValidation:
    """Bring the validation cases of all folds together in the run's ``crossval`` folder and score them.

    Args:
        run: The run's folder. Fold ``all``, which saw every case, is used only if there is no other. An unfinished
            fold is left out with a note.
        reference: Folder of the reference label maps.
        processes: Worker processes; None takes one per processor, or none for little work.
        progress: Called after each scored case.

    Raises:
        SegflowError: A fold lacks a label map, two folds hold the same case, or a case cannot be scored.
    """
    folds = find_folds(run)
    numbered = [fold for fold in folds if is_number(fold.fold)]
    folds, waiting = _apart(numbered or folds)
    records = [fold.read_record() for fold in folds]
    if any(record.mean_of for record in records):
        raise SegflowError(
            f"{run} is a mean of weights, which has no cross-validation",
            found="its members have seen each other's validation cases",
            fix="Score it on other cases: segflow predict, then segflow evaluate.",
        )
    cases = _cases_of(folds, records)
    record = _as_validated(folds, records)
    folder = Run(run).crossval()
    _gather(folder, cases, record)
    summary = evaluate_cases(
        folder,
        reference,
        record.dataset.labels,
        EvaluateSettings(scores=overlap_only(), partial=True, processes=processes),
        file_ending=record.dataset.label_ending,
        reader=record.plans.reader,
        output=folder,
        progress=progress,
    )
    if summary.failed:
        raise CaseErrors(f"the cross-validation of {run} cannot be scored", list(summary.failed.values()))
    names = tuple(fold.fold for fold in folds)
    return CrossValidation(run, folder, record, names, cases, summary, _notes(run, folds, waiting, records, cases))


def _apart(folds: list[Fold]) -> tuple[list[Fold], list[Fold]]:
    """The finished folds, and the unfinished ones. If none is finished, all count as the first."""
    done = [fold for fold in folds if fold.is_finished() or fold.validation.is_dir()]
    return (done, [fold for fold in folds if fold not in done]) if done else (folds, [])


def _cases_of(folds: list[Fold], records: list[RunRecord]) -> dict[str, Fold]:
    cases: dict[str, Fold] = {}
    problems = []
    for fold, record in zip(folds, records, strict=True):
        for case_id in record.val_cases:
            if case_id in cases:
                problems.append(f"case '{case_id}' is a validation case of {cases[case_id].path} and of {fold.path}")
            file = fold.validation / f"{case_id}{record.dataset.label_ending}"
            if not is_image_path(file):
                problems.append(f"case '{case_id}': there is no {file}. {VALIDATE_FIRST}")
            cases[case_id] = fold
    if problems:
        raise CaseErrors(f"the cross-validation of {Run.of(folds[0].path).path} is incomplete", problems)
    if not cases:
        raise SegflowError(f"the folds of {Run.of(folds[0].path).path} have no validation cases")
    return cases


def _as_validated(folds: list[Fold], records: list[RunRecord]) -> RunRecord:
    """The first record, with the settings that really predicted the validation cases.

    ``run.json`` has the settings of the last start, which may have ended before validation.

    Raises:
        CaseErrors: A fold's label maps are not of its weights, or the folds were predicted with different settings.
    """
    problems, used = [], []
    for fold, record in zip(folds, records, strict=True):
        try:
            settings = validated_with(fold, record)
        except SegflowError as error:
            problems.append(str(error))
            continue
        if settings is None:
            log.warning("%s: it is not recorded how these label maps were made. %s", fold.validation, VALIDATE_AGAIN)
            continue
        used.append(settings)
        if settings != used[0]:
            key = next(name for name, value in settings.items() if value != used[0][name])
            problems.append(
                f"{fold.path} was validated with {key}={settings[key]}, and {folds[0].path} with {used[0][key]}. "
                f"{VALIDATE_AGAIN}"
            )
    if problems:
        run = Run.of(folds[0].path).path
        raise CaseErrors(f"the cross-validation of {run} was made with different settings", problems)
    first = records[0]
    if not used:
        return first
    inference = {**(first.settings.get("inference") or {}), **used[0]}
    return replace(first, settings={**first.settings, "inference": inference})


def _gather(folder: Path, cases: Mapping[str, Fold], record: RunRecord) -> None:
    """Copy label maps that were not copied yet. Each copy has a stamp with its source."""
    ending = record.dataset.label_ending
    predictions = Predictions(folder, ending, own=True)
    sources = {case_id: fold.validation / f"{case_id}{ending}" for case_id, fold in cases.items()}
    wanted = {case_id: Wanted(Origin("crossval", 1, {}, {"label_map": file})) for case_id, file in sources.items()}
    done = predictions.prepare(wanted, what="copies of validation maps")
    for case_id, source in sources.items():
        if case_id not in done:
            with predictions.written(case_id, wanted[case_id].origin) as place:
                copy_label_map(source, place / source.name)
    for file in folder.iterdir():
        if file.name.endswith(ending) and file.name.removesuffix(ending) not in cases:
            remove_label_map(file)  # of folds that no longer exist
    predictions.describe(record)


def _notes(
    run: Path,
    folds: list[Fold],
    waiting: list[Fold],
    records: list[RunRecord],
    cases: Mapping[str, Fold],
) -> tuple[str, ...]:
    known = {case for record in records for case in (*record.train_cases, *record.val_cases)}
    notes = [f"{fold.path} is not trained to its end and is left out. {VALIDATE_FIRST}" for fold in waiting]
    if not is_number(folds[0].fold):
        notes.append(f"{run} has only the fold 'all', which was trained on the cases that it is scored on.")
    elif len(cases) < len(known):
        notes.append(
            f"{run} has validated {len(cases)} of {len(known)} training cases; "
            f"the scores rest on fold {', '.join(fold.fold for fold in folds)} alone."
        )
    for note in notes:
        log.warning("%s", note)
    return tuple(notes)
