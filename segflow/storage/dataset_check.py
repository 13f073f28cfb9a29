"""All problems of a raw dataset in one pass, which reads each file once (recipe 1.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.splits import Split
from segflow.core.wording import some
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress, silent
from segflow.storage.case_check import CheckedCase, check_case
from segflow.storage.case_files import Discovery, discover, look_at_held_out
from segflow.storage.case_likeness import alike_problems
from segflow.storage.case_outliers import outlier_problems
from segflow.storage.file_names import SPLITS_FILE
from segflow.storage.images import ImageIO
from segflow.storage.label_sides import sided_pairs, wrong_sides
from segflow.storage.label_values import ValueRoles
from segflow.storage.patients import patients_by_name, patients_in_several_cases
from segflow.storage.problems import Problem
from segflow.storage.split_files import read_splits

STAGE = "check"

BYTES_PER_VALUE = 8
"""Memory per value of an image in bytes: as stored, and as float32."""


@dataclass(frozen=True, slots=True)
class Examined:
    """Result of `examine`.

    Attributes:
        problems: Problems of the whole dataset, then those of each case.
        found: The cases and their files.
        cases: What was found in each case that could be examined.
    """

    problems: list[Problem]
    found: Discovery
    cases: list[CheckedCase]


def check_dataset(
    folder: Path,
    description: DatasetDescription,
    reader: ImageIO,
    *,
    processes: int = 0,
    progress: Progress = silent,
) -> list[Problem]:
    """Check a raw dataset before it is planned.

    Args:
        folder: The raw dataset.
        description: Its dataset.json.
        reader: How to read its files.
        processes: Worker processes; 0 checks in this one.
        progress: Called after each case.

    Returns:
        Problems of the whole dataset, then those of each case. Empty if there are none.

    Raises:
        SegflowError: imagesTr or labelsTr does not exist.
    """
    return examine(folder, description, reader, processes=processes, progress=progress).problems


def examine(
    folder: Path,
    description: DatasetDescription,
    reader: ImageIO,
    *,
    processes: int = 0,
    progress: Progress = silent,
) -> Examined:
    """Like `check_dataset`, with what was found in each case."""
    found = discover(folder, description)
    problems = [*_of_the_whole(description, len(found.cases)), *found.problems]
    problems.extend(_of_labels_present(description.labels, [case.case_id for case in found.cases]))
    problems.extend(look_at_held_out(folder, description.file_ending, description.label_ending))
    labels, channels = description.labels, len(description.channels)
    sided = tuple(sorted({value for pair in sided_pairs(labels) for value in (pair.low, pair.high)}))
    told = {problem.case for problem in found.problems if problem.severity == "error"}
    jobs = [
        Job(
            case.case_id,
            (case, reader, _declared(case, channels, case.case_id in told), ValueRoles.of(labels, case.case_id), sided),
            *_need_of(case, reader),
        )
        for case in found.cases
    ]
    checked = gather(run_jobs(check_case, jobs, processes=processes), len(jobs), STAGE, progress)
    cases: list[CheckedCase] = [*checked.values.values()]
    problems.extend(problem for case in cases for problem in case.problems)
    problems.extend(Problem(case_id, "error", message) for case_id, message in checked.failed.items())
    problems.extend(_of_all_cases(cases, reader))
    problems.extend(_compared(cases, description, _splits_in(folder)))
    problems.sort(key=lambda problem: (problem.case is not None, problem.case or ""))
    return Examined(problems, found, cases)


def _declared(case: CaseFiles, channels: int, is_told: bool) -> int | None:
    """The number of channels to hold a case against; None if files of it are missing or too many, and that is told."""
    return None if is_told and len(case.images) + len(case.missing) != channels else channels


def _of_all_cases(cases: Sequence[CheckedCase], reader: ImageIO) -> list[Problem]:
    """Problems that no single case shows."""
    problems = []
    if cases and all(case.background_only for case in cases):
        problems.append(
            Problem(
                None,
                "error",
                "no label map has foreground: all hold background only",
                "Check that labelsTr holds the label maps of these images.",
            )
        )
    left_handed = sorted(case.case_id for case in cases if case.left_handed)
    if left_handed:
        problems.append(
            Problem(
                None,
                "warning",
                f"images are left-handed, so their axes are those of a mirror image: {some(left_handed)}",
                "They are used as they are. Check in a viewer that left is left; some viewers cannot show them.",
            )
        )
    oriented: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        if case.orientation is not None:
            oriented.setdefault(case.orientation, []).append(case.case_id)
    if len(oriented) > 1:
        groups = sorted(oriented.items(), key=lambda item: -len(item[1]))
        listed = "; ".join(f"{code} in {some(ids)}" for code, ids in groups)
        turning = "NibabelIOWithReorient" if reader.name == "NibabelIO" else "SimpleITKIOWithReorient"
        problems.append(
            Problem(
                None,
                "warning",
                f"the images' axes run in different directions: {listed}; networks see them as they are stored",
                f'"overwrite_image_reader_writer": "{turning}" in dataset.json turns them all to RAS as they are read.',
            )
        )
    return problems


def _compared(
    cases: Sequence[CheckedCase], description: DatasetDescription, splits: Sequence[Split] | None
) -> list[Problem]:
    """Problems that show when cases are compared with each other, or with what their names say."""
    features = [case.features for case in cases]
    names = [case.case_id for case in cases]
    patients = {case.case_id: case.patient for case in features if case.patient is not None}
    return [
        *patients_in_several_cases(names, patients, splits, description.groups),
        *alike_problems(features, {**patients_by_name(names)[0], **patients, **description.groups}),
        *outlier_problems(features, description.channels),
        *wrong_sides(features, description.labels),
    ]


def _splits_in(folder: Path) -> list[Split] | None:
    """The splits that the dataset brings, which planning takes over; None if there are none that can be read."""
    try:
        return read_splits(folder / SPLITS_FILE) if (folder / SPLITS_FILE).is_file() else None
    except SegflowError:
        return None  # planning reports what is wrong


def _of_the_whole(description: DatasetDescription, cases: int) -> list[Problem]:
    problems = []
    if cases != description.num_training:
        problems.append(
            Problem(
                None,
                "error",
                f"dataset.json claims {description.num_training} training cases; found {cases}",
                "Correct numTraining, or look for missing or misnamed files.",
            )
        )
    return problems


def _of_labels_present(labels: Labels, case_ids: Sequence[str]) -> list[Problem]:
    """Cases of ``labels_present`` that do not exist, and labels that no case has."""
    if labels.present is None:
        return []
    problems = []
    if unused := labels.present.unused(case_ids):
        text = f"labels_present of dataset.json fits no case: {some(unused)}"
        fix = "Name cases as their files are named, or by a pattern such as site_b_*."
        problems.append(Problem(None, "error", text, fix))
    everywhere = set(labels.foreground_keys).intersection(*(labels.absent_keys(case_id) for case_id in case_ids))
    if case_ids and everywhere:
        names = some(sorted(map(labels.name_of, everywhere)))
        text = f"by labels_present no case has the label: {names}"
        problems.append(Problem(None, "error", text, "Take it out of labels, or add it to the cases that have it."))
    return problems


def _need_of(case: CaseFiles, reader: ImageIO) -> tuple[int, str]:
    """Memory in bytes for the check of a case, which reads one file at a time, and the size that it follows from."""
    try:
        header = reader.read_header(case.images[0])
    except SegflowError:
        return 0, ""  # the check itself reports what is wrong
    return BYTES_PER_VALUE * header.channels * math.prod(header.shape), f"{' × '.join(map(str, header.shape))} voxels"
