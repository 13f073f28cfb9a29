"""Jobs that make one case's arrays for several configurations, and their need of memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.geometry import permute, resampled_shape
from segflow.core.intensities import absurd_channels
from segflow.core.plans import Plans
from segflow.execution.jobs import Job
from segflow.preprocessing.array_targets import ArrayTarget
from segflow.preprocessing.own_normalizations import Normalizations
from segflow.preprocessing.preprocess_case import normalization_of, normalize_case, spacing_in_plan, to_plan_space
from segflow.preprocessing.provenance import PLANS, PROVENANCE, stamp_files
from segflow.storage.images import ImageIO, read_case
from segflow.storage.label_values import check_label_values

log = logging.getLogger(__name__)


_PROCESS_BYTES = 250 * 2**20  # Python and libraries in each worker


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
    case = read_case(files, reader, channels=len(description.channels))
    if case.label is not None:  # it may have been edited since planning, and training could not name the case
        check_label_values(case.label, labels, files.case_id)
    absurd = absurd_channels(case.image)
    groups: dict[Any, list[ArrayTarget]] = {}
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


def make_jobs(
    cases: Sequence[CaseFiles],
    needed: Mapping[str, tuple[ArrayTarget, ...]],
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
