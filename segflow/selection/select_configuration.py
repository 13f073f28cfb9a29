"""Selection of the configuration, or the ensemble, with the best cross-validated Dice (recipe 13.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.metrics import Summary, mean_of_defined
from segflow.core.selection import Candidate, Selection
from segflow.evaluation.compare import estimate_difference
from segflow.evaluation.summary import SUMMARY_FILE
from segflow.execution.progress import Progress, silent
from segflow.inference.stored_probabilities import SAVE_THEM
from segflow.postprocessing.choose_postprocessing import choose_postprocessing
from segflow.selection.commands import predict_commands
from segflow.selection.crossval import CrossValidation, accumulate_crossval
from segflow.selection.score_ensembles import Members, ensembles_of, score_ensembles
from segflow.selection.select_settings import SelectSettings
from segflow.selection.write_ensemble import write_ensemble
from segflow.storage.file_names import CHOICE_FILE
from segflow.storage.file_stamps import Origin
from segflow.storage.json_files import write_json
from segflow.storage.links import within
from segflow.storage.runs import names_of_runs
from segflow.storage.stamps import StampedFolder

SELECTION_FILE = "selection.json"
ENSEMBLES_FOLDER = "ensembles"
JOIN = " + "


def select_configuration(
    runs: Sequence[Path],
    reference: Path,
    output: Path,
    settings: SelectSettings | None = None,
    *,
    progress: Progress = silent,
) -> Selection:
    """Rank runs and their ensembles by cross-validated mean foreground Dice, and choose the best one's postprocessing.

    Writes each run's ``crossval`` folder, an ensemble's label maps if it wins, ``postprocessing.json`` beside the
    winner's label maps, and ``selection.json``. Runs without stored probabilities are ranked but join no ensemble.

    Args:
        runs: Folders of runs of one dataset, see `find_runs`.
        reference: Folder of the reference label maps.
        output: Folder for ``selection.json``, such as ``outputs/Dataset004_Hippocampus``.
        settings: See `SelectSettings`.
        progress: Called after each case.

    Raises:
        SegflowError: There is no run, a run's cross-validation is incomplete, or the runs are of different datasets or
            share no case.
    """
    settings = settings or SelectSettings()
    if not runs:
        raise SegflowError("there is no run to select from", fix="Train first: segflow train")
    crossvals = [accumulate_crossval(run, reference, processes=settings.processes, progress=progress) for run in runs]
    _check_same_dataset(crossvals)
    cases = _common_cases(crossvals)
    entries = _score_all(crossvals, cases, reference, settings, progress)
    ranked = _ranked(entries, settings)
    best = ranked[0]
    winners = [crossvals[k] for k in best.members]
    folder = _label_maps_of(best, winners, cases, output, settings)
    records = [run.record for run in winners]
    record = records[0]
    choice = choose_postprocessing(
        folder,
        reference,
        record.dataset.labels,
        settings.postprocessing,
        file_ending=record.dataset.label_ending,
        reader=record.plans.reader,
        output=folder,
        progress=progress,
    )
    steps_file = folder / CHOICE_FILE
    selection = Selection(
        dataset=record.dataset.name,
        candidates=tuple(entry.candidate for entry in ranked),
        cases=tuple(cases),
        crossval=str(folder),
        postprocessing=str(steps_file),
        dice_after=mean_of_defined(list(choice.after.values())),
        notes=(*_notes(crossvals, cases, settings), *_verdict(ranked)),
        commands=predict_commands(best.candidate, records, steps_file if choice.steps else None),
    )
    _write(selection, crossvals, output, settings)
    return selection


@dataclass(frozen=True, slots=True)
class _Entry:
    """A candidate, its runs, and its scores on the common cases."""

    members: Members
    candidate: Candidate
    summary: Summary


def _label_maps_of(
    best: _Entry, winners: Sequence[CrossValidation], cases: Sequence[str], output: Path, settings: SelectSettings
) -> Path:
    """The folder of the best candidate's cross-validated label maps, which are written for an ensemble."""
    if len(winners) == 1:
        return winners[0].folder
    folder = within(output, ENSEMBLES_FOLDER, "__".join(_slug(name) for name in best.candidate.name.split(JOIN)))
    write_ensemble(winners, cases, folder, processes=settings.processes)
    return folder


def _write(selection: Selection, crossvals: Sequence[CrossValidation], output: Path, settings: SelectSettings) -> None:
    """Write ``selection.json`` with its stamp."""
    scores = {f"scores_{k}": crossval.folder / SUMMARY_FILE for k, crossval in enumerate(crossvals)}
    inputs = {**scores, "postprocessing": Path(selection.postprocessing)}
    with StampedFolder(output).written(
        SELECTION_FILE, Origin("select", 1, {"max_members": settings.max_members}, inputs)
    ) as place:
        write_json(place / SELECTION_FILE, selection.to_json())


def _check_same_dataset(runs: Sequence[CrossValidation]) -> None:
    first = runs[0].record
    for run in runs[1:]:
        if run.record.dataset.labels != first.dataset.labels or run.record.dataset.name != first.dataset.name:
            raise SegflowError(
                "only runs of one dataset can be compared",
                found=f"{runs[0].run} ({first.dataset.name}), {run.run} ({run.record.dataset.name})",
            )


def _common_cases(runs: Sequence[CrossValidation]) -> list[str]:
    common = sorted(set.intersection(*(set(run.cases) for run in runs)))
    if not common:
        raise SegflowError(
            "the runs have no validation case in common",
            found=", ".join(f"{run.run}: folds {' '.join(run.folds)}" for run in runs),
            fix="Train the same folds of each.",
        )
    return common


def _score_all(
    runs: Sequence[CrossValidation],
    cases: Sequence[str],
    reference: Path,
    settings: SelectSettings,
    progress: Progress,
) -> list[_Entry]:
    """Single runs first, then ensembles, smaller ones first."""
    common = set(cases)
    groups: list[Members] = [(k,) for k in range(len(runs))]
    summaries = [Summary.of_cases([case for case in run.summary.cases if case.case_id in common]) for run in runs]
    able = [k for k, run in enumerate(runs) if settings.max_members > 1 and run.has_probabilities()]
    if len(able) > 1:
        ensembles = ensembles_of(len(able), settings.max_members)
        groups += [tuple(able[k] for k in group) for group in ensembles]
        members = [runs[k] for k in able]
        summaries += score_ensembles(
            members, ensembles, cases, reference, processes=settings.processes, progress=progress
        )
    names = names_of_runs([run.run for run in runs])
    return [
        _Entry(
            group,
            Candidate(
                name=JOIN.join(names[k] for k in group),
                runs=tuple(str(runs[k].run) for k in group),
                folds=tuple(runs[k].folds for k in group),
                dice=summary.score,
                dice_per_label={key: metrics["Dice"] for key, metrics in summary.mean.items()},
            ),
            summary,
        )
        for group, summary in zip(groups, summaries, strict=True)
    ]


def _ranked(entries: Sequence[_Entry], settings: SelectSettings) -> list[_Entry]:
    """Entries from best to worst. Among equal ones the simpler, earlier one comes first."""
    order = sorted(entries, key=lambda entry: math.inf if math.isnan(entry.candidate.dice) else -entry.candidate.dice)
    best = order[0].summary.values("Dice")
    ranked = [order[0]]
    for entry in order[1:]:
        behind = estimate_difference(
            best, entry.summary.values("Dice"), resamples=settings.resamples, confidence=settings.confidence
        )
        candidate = replace(entry.candidate, behind=behind.mean, behind_low=behind.low, behind_high=behind.high)
        ranked.append(replace(entry, candidate=candidate))
    return ranked


def _notes(runs: Sequence[CrossValidation], cases: Sequence[str], settings: SelectSettings) -> list[str]:
    notes = [note for run in runs for note in run.notes]
    if any(len(run.cases) > len(cases) for run in runs):
        notes.append(f"The runs were compared on the {len(cases)} validation cases that all of them have.")
    without = [str(run.run) for run in runs if not run.has_probabilities()]
    if without and settings.max_members > 1 and len(runs) > 1:
        notes.append(f"Not in ensembles, since they have no stored probabilities: {', '.join(without)}. {SAVE_THEM}")
    return notes


def _verdict(ranked: Sequence[_Entry]) -> list[str]:
    """A sentence on whether a simpler candidate may be as good as the best."""
    best = ranked[0]
    close = [entry for entry in ranked[1:] if entry.candidate.within_noise]
    if not close:
        return [f"{best.candidate.name} is better than all others by more than noise."] if ranked[1:] else []
    simplest = min(close, key=lambda entry: len(entry.members))
    text = f"{best.candidate.name} leads {simplest.candidate.name} by {simplest.candidate.behind:.4f}, within noise"
    if len(simplest.members) < len(best.members):
        text += f"; {simplest.candidate.name} is simpler and may do"
    return [text + "."]


def _slug(name: str) -> str:
    return name.replace("/", "-")
