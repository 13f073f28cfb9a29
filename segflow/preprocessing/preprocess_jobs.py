"""Jobs that make one case's arrays for several configurations, and their need of memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.image_look import look_at
from segflow.core.intensities import absurd_channels
from segflow.core.plans import Plans
from segflow.execution.jobs import Job
from segflow.preprocessing.array_targets import ArrayTarget
from segflow.preprocessing.case_memory import need_of
from segflow.preprocessing.foreground import draw_locations_as_read, location_keys
from segflow.preprocessing.normalized_source import normalize_as_read
from segflow.preprocessing.own_normalizations import Normalizations
from segflow.preprocessing.preprocess_case import normalization_of, normalize_case, to_plan_space
from segflow.preprocessing.provenance import PLANS, stamp_files
from segflow.preprocessing.streamed import resample_as_read
from segflow.storage.case_facts import PROVENANCE, Stamps
from segflow.storage.images import ImageIO, read_case
from segflow.storage.open_case import check_values_as_read, is_read_in_boxes, only_whole, open_case
from segflow.storage.regular_files import stamped_files_stay_open

log = logging.getLogger(__name__)


def preprocess_one(
    files: CaseFiles,
    reader: ImageIO,
    description: DatasetDescription,
    plans: Plans,
    targets: Sequence[ArrayTarget],
    own: Normalizations,
) -> str | None:
    """Make one case's arrays for some configurations, in a worker. Returns why its values are absurd, or None."""
    stamps, labels = stamp_files(files), description.labels
    # Labels are checked again: a file may have been edited since planning, and training could not name the case.
    case = read_case(files, reader, channels=len(description.channels), labels=labels)
    absurd = absurd_channels(case.image)
    groups = _groups(targets)
    while groups:
        _, members = groups.popitem()
        normalized = normalize_case(case, plans, members[0].plan, normalizations=own, may_overwrite=not groups)
        if not groups:
            del case  # frees its memory for the result
        for target in members:
            result = to_plan_space(normalized, target.plan, labels)
            target.store.write(result, target.plan.patch_size, _origin(target, stamps))
            del result  # frees its memory before the next one is made
    return absurd


def preprocess_as_read(
    files: CaseFiles,
    reader: ImageIO,
    description: DatasetDescription,
    plans: Plans,
    targets: Sequence[ArrayTarget],
    own: Normalizations,
) -> str | None:
    """Like `preprocess_one`, slab by slab, for a case that does not fit into memory. Its arrays are the same."""
    stamps, labels = stamp_files(files), description.labels
    with open_case(files, reader, channels=len(description.channels)) as case:
        if case is None:
            raise only_whole(files, reader)
        if case.label is not None:
            check_values_as_read(case.label, labels, files.case_id)
        look = look_at(case.image)
        for members in _groups(targets).values():
            folder = members[0].store.folder
            folder.mkdir(parents=True, exist_ok=True)
            normalized = normalize_as_read(case, plans, members[0].plan, look=look, normalizations=own, scratch=folder)
            for target in members:
                target.store.write_as_read(
                    resample_as_read(normalized, target.plan),
                    target.plan.patch_size,
                    partial(draw_locations_as_read, keys=location_keys(labels)),
                    _origin(target, stamps),
                )
    return look.absurd


def preprocess_job(as_read: bool, *arguments: Any) -> str | None:
    """Make one case's arrays, see `preprocess_one` and `preprocess_as_read`."""
    with stamped_files_stay_open():
        return (preprocess_as_read if as_read else preprocess_one)(*arguments)


def _groups(targets: Sequence[ArrayTarget]) -> dict[Any, list[ArrayTarget]]:
    """The targets with the same normalisation."""
    groups: dict[Any, list[ArrayTarget]] = {}
    for target in targets:
        groups.setdefault(normalization_of(target.plan), []).append(target)
    return groups


def _has_own(targets: Sequence[ArrayTarget], own: Normalizations) -> bool:
    return any(scheme in own for target in targets for scheme in target.plan.normalization_schemes)


def _origin(target: ArrayTarget, stamps: Stamps) -> dict[str, Any]:
    return {PROVENANCE: {PLANS: target.plans_name, "choices": target.choices, "files": stamps}}


def make_jobs(
    cases: Sequence[CaseFiles],
    needed: Mapping[str, tuple[ArrayTarget, ...]],
    reader: ImageIO,
    plans: Plans,
    description: DatasetDescription,
    own: Normalizations,
    room: int,
) -> tuple[list[Job], dict[str, str]]:
    """A job of `preprocess_job` for each case with its need of memory; and messages about headers that cannot be read.

    Args:
        cases: The cases.
        needed: Targets of each case.
        reader, plans, description, own: As in `preprocess_one`.
        room: Bytes that one case may take. Those that need more as a whole are prepared slab by slab.
    """
    jobs, failed = [], {}
    for case in cases:
        targets = needed[case.case_id]
        try:
            need = need_of(
                reader.read_header(case.images[0]),
                len(case.numbers) + len(case.missing),
                plans,
                [t.plan for t in targets],
            )
        except SegflowError as error:
            failed[case.case_id] = str(error.of_case(case.case_id))
            log.error("%s", failed[case.case_id])
            continue
        kept = (len(case.images) + 1) * getattr(reader, "kept_bytes", 0)
        needs_all = _has_own(targets, own) or not is_read_in_boxes(case, reader)
        in_parts = None if need.in_parts is None or needs_all else need.in_parts + kept
        as_read = in_parts is not None and in_parts < need.whole > room
        memory = in_parts if as_read and in_parts is not None else need.whole
        arguments = (as_read, case, reader, description, plans, targets, own)
        jobs.append(Job(case.case_id, arguments, memory, need.sizes))
    return jobs, failed
