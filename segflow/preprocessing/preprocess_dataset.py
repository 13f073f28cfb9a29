"""From a raw dataset and its plans to arrays for training."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.geometry import permute, resampled_shape
from segflow.core.intensities import absurd_channels, describe_absurd
from segflow.core.labels import Labels
from segflow.core.plans import Plans
from segflow.execution.gathering import told
from segflow.execution.jobs import Job
from segflow.execution.machine import memory_bytes, processor_count
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress, silent
from segflow.preprocessing.own_normalizations import Normalizations, check_normalizations, check_planned
from segflow.preprocessing.owner import check_owner
from segflow.preprocessing.preprocess_case import normalization_of, normalize_case, spacing_in_plan, to_plan_space
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.preprocessing.provenance import PLANS, PROVENANCE, choices_of, stamp_files, why_outdated
from segflow.storage.case_files import find_training_cases
from segflow.storage.images import ImageIO, read_case, reader_by_name
from segflow.storage.label_map_files import copy_label_map, is_copied, remove_label_map
from segflow.storage.label_values import check_label_values
from segflow.storage.prepared_dataset import PreparedDataset
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.raw_dataset import check_planned_description, read_description
from segflow.storage.stamps import say_why

STAGE = "preprocess"

_PROCESS_BYTES = 250 * 2**20  # Python and libraries in each worker
_SHARE_OF_MEMORY = 0.8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreprocessReport:
    """Result of preprocessing a dataset.

    Attributes:
        folder: Folder with the folders of arrays.
        arrays: Data identifiers of the arrays.
        done: Cases for which arrays were made.
        skipped: Cases that were up to date.
        removed: Cases that the dataset no longer has; their arrays were deleted.
        failed: Case → message. All other cases are done.
    """

    folder: Path
    arrays: tuple[str, ...]
    done: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """A summary for the user in a line or two."""
        parts = [f"{len(self.done)} cases preprocessed for {', '.join(self.arrays)}"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} were up to date")
        if self.removed:
            parts.append(f"{len(self.removed)} are gone from the dataset and were deleted: {', '.join(self.removed)}")
        if self.failed:
            parts.append(f"{len(self.failed)} failed: {', '.join(self.failed)}")
        return "; ".join(parts) + "."


@dataclass(frozen=True, slots=True)
class _Target:
    """One folder of arrays to make.

    Attributes:
        plan: A configuration that uses it.
        store: The folder.
        plans_name: Name of the plans' file.
        choices: See `choices_of`.
    """

    plan: ConfigurationPlan
    store: PreprocessedStore
    plans_name: str
    choices: dict[str, Any]


def preprocess_dataset(
    dataset_folder: Path,
    plans: Plans,
    configurations: Sequence[str],
    output_folder: Path,
    settings: PreprocessSettings | None = None,
    *,
    plans_name: str | None = None,
    normalizations: Normalizations | None = None,
    progress: Progress = silent,
) -> PreprocessReport:
    """Make the arrays of configurations that are not up to date.

    A case is read, cropped and normalised once for all configurations. Reference labels are copied beside the arrays.

    Args:
        dataset_folder: The raw dataset.
        plans: Its plans.
        configurations: Names within the plans; those that share a ``data_identifier`` share arrays.
        output_folder: Arrays go to ``<output_folder>/<data_identifier>``.
        settings: How to use the machine.
        plans_name: Name of the plans' file beside the arrays, without its ending; the name in the plans where None.
        normalizations: Those of a user's own, see `own_normalizations.CONTRACT`.
        progress: Told after each case.

    Returns:
        The result, with the cases that failed and why.

    Raises:
        SegflowError: The dataset's files do not fit together, a configuration does not exist or cannot be used, the
            dataset differs from the planned one, or the arrays are those of other plans.
    """
    settings, own = settings or PreprocessSettings(), normalizations or {}
    check_normalizations(own)
    prepared = PreparedDataset(output_folder)
    description = read_description(dataset_folder)
    check_planned_description(output_folder, description)
    cases = find_training_cases(dataset_folder, description)
    reader = reader_by_name(plans.reader)
    targets = _targets(plans, plans_name or plans.plans_name, configurations, description.labels, prepared)
    _check_names(cases)
    for target in targets:
        check_planned(plans, target.plan, own)
    for target in targets:
        check_owner(target.store, target.choices, target.plans_name, description.labels, redo=settings.redo)
    removed = _remove_others(targets, {case.case_id for case in cases})
    for target in targets:
        target.store.clear_unfinished()
    needed = _out_of_date(cases, targets, redo=settings.redo)
    waiting = [case for case in cases if needed[case.case_id]]
    jobs, failed = _make_jobs(waiting, needed, reader, plans, description, own)
    limit = int((settings.max_memory_gb or _SHARE_OF_MEMORY * memory_bytes() / 2**30) * 2**30)
    processes = processor_count() if settings.processes is None else settings.processes
    done, absurd = [], {}
    outcomes = run_jobs(_preprocess_one, jobs, processes=processes, memory_limit_bytes=limit)
    for outcome in told(outcomes, len(jobs), STAGE, progress):
        if outcome.error is None:
            done.append(outcome.name)
            if outcome.value is not None:
                absurd[outcome.name] = outcome.value
        else:
            log.error("%s", outcome.error)
            failed[outcome.name] = outcome.error
    if absurd:
        log.warning("%s", describe_absurd(absurd))
    _copy_references(cases, prepared.references_to_write(), description.file_ending, set(done), removed)
    return PreprocessReport(
        folder=output_folder,
        arrays=tuple(target.plan.data_identifier for target in targets),
        done=tuple(sorted(done)),
        skipped=tuple(case.case_id for case in cases if not needed[case.case_id]),
        removed=removed,
        failed=dict(sorted(failed.items())),
    )


def _preprocess_one(
    files: CaseFiles,
    reader: ImageIO,
    description: DatasetDescription,
    plans: Plans,
    targets: Sequence[_Target],
    own: Normalizations,
) -> str | None:
    """Make one case's arrays for some configurations, in a worker. Returns why its values are absurd, or None."""
    stamps, labels = stamp_files(files), description.labels
    case = read_case(files, reader, channels=len(description.channels))
    if case.label is not None:  # it may have been edited since planning, and training could not name the case
        check_label_values(case.label, labels, files.case_id)
    absurd = absurd_channels(case.image)
    groups: dict[Any, list[_Target]] = {}
    for target in targets:
        groups.setdefault(normalization_of(target.plan), []).append(target)
    while groups:
        _, members = groups.popitem()
        normalized = normalize_case(case, plans, members[0].plan, normalizations=own, may_overwrite=not groups)
        if not groups:
            del case  # frees its memory for the result
        for target in members:
            result = to_plan_space(normalized, target.plan, labels)
            made_from = {PLANS: target.plans_name, "choices": target.choices, "files": stamps}
            target.store.write(result, target.plan.patch_size, {PROVENANCE: made_from})
            del result  # frees its memory before the next one is made
    return absurd


def _targets(
    plans: Plans, plans_name: str, configurations: Sequence[str], labels: Labels, prepared: PreparedDataset
) -> tuple[_Target, ...]:
    """One target for each folder of arrays. Configurations that share a folder must agree on its arrays."""
    targets: dict[str, _Target] = {}
    for name in configurations:
        plan = plans.configuration(name)
        identifier = plan.data_identifier
        target = _Target(plan, prepared.arrays_to_write(plan), plans_name, choices_of(plans, plan, labels))
        known = targets.setdefault(identifier, target)
        if known.choices != target.choices:
            differing = [key for key, value in known.choices.items() if value != target.choices[key]]
            raise SegflowError(
                f"configurations '{known.plan.name}' and '{name}' share the folder '{identifier}' but differ in "
                f"{', '.join(differing)}",
                fix="Give one of them a data_identifier of its own in the plans.",
            )
    return tuple(targets.values())


def _check_names(cases: Iterable[CaseFiles]) -> None:
    """Refuse names of cases whose files could be mistaken for those of another case."""
    ids = {case.case_id for case in cases}
    for case_id in sorted(ids):
        for ending in ("_seg", "_locations"):
            if f"{case_id}{ending}" in ids:
                raise SegflowError(
                    f"the arrays of '{case_id}{ending}' would overwrite those of '{case_id}'",
                    fix="Rename one of the two cases.",
                )


def _remove_others(targets: Sequence[_Target], case_ids: set[str]) -> tuple[str, ...]:
    removed: set[str] = set()
    for target in targets:
        for case_id in set(target.store.case_ids()) - case_ids:
            target.store.remove(case_id)
            removed.add(case_id)
    if removed:
        log.warning("deleted arrays of cases that the dataset no longer has: %s", ", ".join(sorted(removed)))
    return tuple(sorted(removed))


def _out_of_date(
    cases: Sequence[CaseFiles], targets: Sequence[_Target], *, redo: bool
) -> dict[str, tuple[_Target, ...]]:
    """Targets to make for each case. Reasons are logged, except for cases that are made for the first time."""
    if redo:
        return {case.case_id: tuple(targets) for case in cases}
    needed: dict[str, tuple[_Target, ...]] = {}
    reasons: dict[str, str] = {}
    for case in cases:
        stale = []
        for target in targets:
            why = why_outdated(target.store, case, target.choices)
            if why is not None:
                stale.append(target)
                reasons[case.case_id] = why
        needed[case.case_id] = tuple(stale)
    say_why("cases", reasons, len(cases))
    return needed


def _make_jobs(
    cases: Sequence[CaseFiles],
    needed: Mapping[str, tuple[_Target, ...]],
    reader: ImageIO,
    plans: Plans,
    description: DatasetDescription,
    own: Normalizations,
) -> tuple[list[Job], dict[str, str]]:
    """A job for each case with its need of memory; and messages about cases whose header cannot be read."""
    jobs, failed = [], {}
    for case in cases:
        targets = needed[case.case_id]
        try:
            memory = _memory_of(case, reader, plans, [target.plan for target in targets])
        except SegflowError as error:
            failed[case.case_id] = str(error.of_case(case.case_id))
            log.error("%s", failed[case.case_id])
            continue
        arguments = (case, reader, description, plans, targets, own)
        jobs.append(Job(case.case_id, arguments, memory))
    return jobs, failed


def _memory_of(case: CaseFiles, reader: ImageIO, plans: Plans, configurations: Sequence[ConfigurationPlan]) -> int:
    """Bytes that a case needs at its peak, computed from its headers.

    First come the image as read and its normalised copy, with label, marked label and mask. Then come image and label
    on their own grid, with the result of one configuration at a time.
    """
    header = reader.read_header(case.images[0])
    channels = header.channels if len(case.images) == 1 else len(case.images)
    voxels = _count(header.shape)
    spacing = permute(header.geometry.spacing, plans.axis_order)
    shape = permute(header.shape, plans.axis_order)
    results = [_count(resampled_shape(shape, spacing, spacing_in_plan(plan, spacing))) for plan in configurations]
    before = (2 * 4 * channels + 6) * voxels
    after = (4 * channels + 2) * voxels + (4 * channels + 4) * max(results)
    return _PROCESS_BYTES + max(before, after)


def _count(shape: Iterable[int]) -> int:
    total = 1
    for n in shape:
        total *= max(1, int(n))
    return total


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
