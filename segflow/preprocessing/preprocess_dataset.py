"""From a raw dataset and its plans to arrays for training."""

from __future__ import annotations

import logging
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.core.case_part import part_of
from segflow.core.intensities import describe_absurd
from segflow.core.plans import Plans
from segflow.execution.elsewhere import Elsewhere, failures
from segflow.execution.gathering import Gathered, gather
from segflow.execution.jobs import Job, Outcome
from segflow.execution.machine import processor_count
from segflow.execution.parallel import room_for_job, run_jobs
from segflow.execution.progress import Progress, silent
from segflow.preprocessing.array_targets import (
    ArrayTarget,
    array_targets,
    check_names,
    is_current,
    out_of_date,
    remove_others,
)
from segflow.preprocessing.own_normalizations import Normalizations, check_normalizations, check_planned
from segflow.preprocessing.owner import check_owner
from segflow.preprocessing.preprocess_jobs import make_jobs, preprocess_job
from segflow.preprocessing.preprocess_report import PreprocessReport
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.storage.case_files import find_training_cases
from segflow.storage.images import reader_by_name
from segflow.storage.label_map_files import copy_label_map, is_copied, remove_label_map
from segflow.storage.label_mapping import in_classes
from segflow.storage.prepared_dataset import PreparedDataset
from segflow.storage.raw_dataset import check_planned_description, read_description

STAGE = "preprocess"


log = logging.getLogger(__name__)


def preprocess_dataset(
    dataset_folder: str | Path,
    plans: Plans,
    configurations: Sequence[str],
    output_folder: str | Path,
    settings: PreprocessSettings | None = None,
    *,
    plans_name: str | None = None,
    normalizations: Normalizations | None = None,
    progress: Progress = silent,
    elsewhere: Elsewhere | None = None,
) -> PreprocessReport:
    """Make the arrays of configurations that are not up to date.

    A case is read, cropped and normalised once for all configurations. Reference labels are copied beside the arrays.

    Args:
        dataset_folder: The raw dataset.
        plans: Its plans.
        configurations: Names within the plans; those that share a ``data_identifier`` share arrays.
        output_folder: Arrays go to ``<output_folder>/<data_identifier>``.
        settings: How to use the machine.
        plans_name: Name of the plans' file beside the arrays, without its ending; None takes the
            name in the plans.
        normalizations: The user's own normalisations, see `own_normalizations.CONTRACT`.
        progress: Called after each case.
        elsewhere: Has the arrays made by other processes. None makes them here.

    Returns:
        The result, with the cases that failed and why.

    Raises:
        SegflowError: The dataset's files do not fit together, a configuration does not exist or cannot be used, the
            dataset differs from the planned one, or the arrays are those of other plans.
    """
    dataset_folder, output_folder = Path(dataset_folder), Path(output_folder)
    settings, own = settings or PreprocessSettings(), normalizations or {}
    check_normalizations(own)
    prepared = PreparedDataset(output_folder)
    description = read_description(dataset_folder)
    check_planned_description(output_folder, description)
    cases = find_training_cases(dataset_folder, description)
    reader = in_classes(reader_by_name(plans.reader), description.labels)
    targets = array_targets(plans, plans_name or plans.plans_name, configurations, description.labels, prepared)
    check_names(cases)
    for target in targets:
        check_planned(plans, target.plan, own)
    for target in targets:
        target.store.read_index()
        check_owner(target.store, target.choices, target.plans_name, description.labels, redo=settings.redo)
    removed = remove_others(targets, {case.case_id for case in cases})
    mine = part_of(cases, settings.part)
    needed = out_of_date(mine, targets, redo=settings.redo)
    waiting = [case for case in mine if needed[case.case_id]]
    if elsewhere is None:
        processes = processor_count() if settings.processes is None else settings.processes
        room = room_for_job(processes)
        jobs, failed = make_jobs(waiting, needed, reader, plans, description, own, room)
        made = _run(jobs, needed, processes, progress)
        done, failed = sorted(made.values), failed | made.failed
        _look_again(targets, waiting)
    else:
        done, failed = _made_elsewhere(mine, waiting, needed, elsewhere, redo=settings.redo)
    _copy_references(mine, prepared.references_to_write(), description.label_ending, done, removed)
    return PreprocessReport(
        folder=output_folder,
        arrays=tuple(target.plan.data_identifier for target in targets),
        done=tuple(done),
        skipped=tuple(case.case_id for case in mine if not needed[case.case_id]),
        removed=removed,
        failed=dict(sorted(failed.items())),
    )


def _made_elsewhere(
    cases: Sequence[CaseFiles],
    waiting: Sequence[CaseFiles],
    needed: Mapping[str, Sequence[ArrayTarget]],
    elsewhere: Elsewhere,
    *,
    redo: bool,
) -> tuple[list[str], dict[str, str]]:
    """Names of the cases that other processes made, sorted; and case → message for the others."""
    if redo:  # the old arrays are deleted here, so that what is there afterwards was made anew
        for case in waiting:
            for target in needed[case.case_id]:
                target.store.remove(case.case_id)
    names = [case.case_id for case in waiting]
    told = elsewhere([case.case_id for case in cases], names) if names else {}
    _look_again([target for case in waiting for target in needed[case.case_id]], waiting)
    missing = [case.case_id for case in waiting if not is_current(case, needed[case.case_id])]
    return sorted(set(names) - set(missing)), failures(missing, told)


def _look_again(targets: Iterable[ArrayTarget], made: Collection[CaseFiles]) -> None:
    """Look at the folders as they are after cases were made, which also writes their indices for later commands."""
    for store in {id(target.store): target.store for target in targets}.values() if made else ():
        store.read_index()


def _run(
    jobs: Sequence[Job], needed: Mapping[str, Sequence[ArrayTarget]], processes: int, progress: Progress
) -> Gathered:
    outcomes = run_jobs(preprocess_job, jobs, processes=processes)
    made = gather(_followed(outcomes, needed), len(jobs), STAGE, progress)
    if absurd := {case_id: why for case_id, why in made.values.items() if why is not None}:
        log.warning("%s", describe_absurd(absurd))
    return made


def _followed(outcomes: Iterable[Outcome], needed: Mapping[str, Sequence[ArrayTarget]]) -> Iterator[Outcome]:
    """Pass outcomes on. Failures are logged at once, since the other jobs may take hours; what was made is indexed."""
    for outcome in outcomes:
        if outcome.error is not None:
            log.error("%s", outcome.error)
        else:
            for target in needed[outcome.name]:
                target.store.read_since(outcome.name)
        yield outcome


def _copy_references(
    cases: Iterable[CaseFiles], folder: Path, ending: str, done: Container[str], removed: Iterable[str]
) -> None:
    """Copy reference labels whose copy is missing or differs, for evaluation without the raw dataset."""
    for case_id in removed:
        remove_label_map(folder / f"{case_id}{ending}")
    for case in cases:
        if case.label is None:
            continue
        target = folder / f"{case.case_id}{ending}"
        if case.case_id in done or not is_copied(case.label, target):
            copy_label_map(case.label, target)
