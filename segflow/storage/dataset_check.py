"""All problems of a raw dataset in one pass, which reads each file once (recipe 1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.intensities import ABSURD_FIX, absurd_channels, absurd_values
from segflow.core.labels import Labels
from segflow.core.wording import some
from segflow.execution.gathering import gather
from segflow.execution.jobs import Job
from segflow.execution.parallel import run_jobs
from segflow.execution.progress import Progress, silent
from segflow.storage.case_files import discover, look_at_held_out
from segflow.storage.images import (
    SAME_GRID,
    ImageIO,
    check_channels,
    form_conflict,
    is_left_handed,
    is_sheared,
    mm,
    orientation,
    same_placement,
)
from segflow.storage.problems import Problem

STAGE = "check"
COUNTED = 1 << 15
"""Largest range of values that is counted in a table, which takes memory. Differences must fit int16."""


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
    found = discover(folder, description)
    problems = [*_of_the_whole(description, len(found.cases)), *found.problems]
    problems.extend(look_at_held_out(folder, description.file_ending))
    declared = declared_values(description.labels)
    jobs = [Job(case.case_id, (case, reader, len(description.channels), declared)) for case in found.cases]
    checked = gather(run_jobs(check_case, jobs, processes=processes), len(jobs), STAGE, progress)
    cases: list[CheckedCase] = [*checked.values.values()]
    problems.extend(problem for case in cases for problem in case.problems)
    problems.extend(Problem(case_id, "error", message) for case_id, message in checked.failed.items())
    problems.extend(_of_all_cases(cases, reader))
    return sorted(problems, key=lambda problem: (problem.case is not None, problem.case or ""))


@dataclass(frozen=True, slots=True)
class CheckedCase:
    """Result of the check of one case.

    Attributes:
        case_id: Name of the case.
        problems: Its problems.
        orientation: Orientation of its image, such as ``RAS``, or None.
        background_only: Whether its label map is 0 everywhere; None if it could not be read.
        left_handed: Whether its image's axes are left-handed, like those of a mirror image.
    """

    case_id: str
    problems: list[Problem]
    orientation: str | None
    background_only: bool | None
    left_handed: bool


def check_case(files: CaseFiles, reader: ImageIO, channels: int, declared: tuple[int, ...]) -> CheckedCase:
    """Check one case, channel by channel.

    Args:
        files: Its files.
        reader: How to read them.
        channels: Number of channels that the dataset declares.
        declared: Label values that the dataset declares, with the ignore label.
    """
    check = _CaseCheck(files, reader)
    check.images(channels)
    check.label(declared)
    return CheckedCase(files.case_id, check.problems, check.orientation, check.background_only, check.left_handed)


class _CaseCheck:
    """Collects the problems of one case."""

    def __init__(self, files: CaseFiles, reader: ImageIO) -> None:
        self.problems: list[Problem] = []
        self.orientation: str | None = None
        self.background_only: bool | None = None
        self.left_handed = False
        self._files = files
        self._reader = reader
        self._grid: tuple[tuple[int, ...], Geometry] | None = None
        self._grid_file = ""

    def images(self, channels: int) -> None:
        """Read the image files one by one."""
        count, readable, zero = 0, True, {}
        for file in self._files.images:
            try:
                image, geometry = self._reader.read_image([file])
            except SegflowError as error:
                readable = False
                self.problems.append(Problem.of(error, self._files.case_id))
                continue
            count += image.shape[0]
            zero[file.name] = self._intensities(file, image)
            if is_sheared(geometry):
                self._warn(
                    f"{file.name} has a direction that is not orthonormal", "It is used as it is; check its overlay."
                )
            self._same_grid(file, image.shape[1:], geometry)
        if zero and all(zero.values()):
            self._error("the image is zero everywhere", "Export it again, or remove the case.")
        elif any(zero.values()):
            names = ", ".join(name for name, is_zero in zero.items() if is_zero)
            self._warn(f"a channel is zero everywhere: {names}", "Is that intended?")
        if readable:
            try:
                check_channels(count, channels)
            except SegflowError as error:
                self.problems.append(Problem.of(error, self._files.case_id))

    def label(self, declared: tuple[int, ...]) -> None:
        """Read the label map."""
        file = self._files.label
        if file is None:
            return  # already reported by `discover`
        try:
            label, geometry = self._reader.read_label(file)
        except SegflowError as error:
            self.problems.append(Problem.of(error, self._files.case_id))
            return
        self._same_grid(file, label.shape, geometry)
        values = label_values(label)
        unknown = [value for value in values if value not in declared]
        if unknown:
            self._error(
                f"{file.name} holds labels that dataset.json does not name; found {unknown[:10]}; "
                f"expected only {sorted(declared)}",
                "Put 255 in place of 1 into its labels, then: segflow convert source=FOLDER dataset_id=NUMBER."
                if unknown == [255]
                else "Name them in dataset.json, or correct the label map.",
            )
        self.background_only = values == [0]
        if self.background_only:
            self._warn(f"{file.name} holds background only", "Right for a case without findings.")

    def _intensities(self, file: Path, image: np.ndarray) -> bool:
        """Report NaN, infinite and absurd voxels. Returns whether all are zero."""
        lowest, highest = float(image.min()), float(image.max())  # NaN anywhere makes both NaN
        if np.isnan(lowest):
            count = int(np.isnan(image).sum())
            self._error(f"{file.name} holds NaN in {count} voxels", "Replace them, for example by the air's value.")
        elif np.isinf(lowest) or np.isinf(highest):
            self._error(f"{file.name} holds infinite values", "Replace them.")
        elif lowest == highest != 0.0:
            self._warn(f"{file.name} is {lowest:g} everywhere", "Is that intended?")
        elif absurd := absurd_values(image[0]) if len(image) == 1 else absurd_channels(image):
            self._warn(f"{file.name} holds values that no measurement gives; {absurd}", ABSURD_FIX)
        return lowest == 0.0 and highest == 0.0

    def _same_grid(self, file: Path, shape: tuple[int, ...], geometry: Geometry) -> None:
        if conflict := form_conflict(geometry, shape):
            self._warn(
                f"{file.name} has two places in the patient: {conflict}",
                "Some viewers follow one, some the other. Find out which is right and write it to both.",
            )
        if self._grid is None:
            self._grid, self._grid_file = (shape, geometry), file.name
            self.orientation = orientation(geometry)
            self.left_handed = is_left_handed(geometry)
            return
        first_shape, first = self._grid
        pair = f"{self._grid_file} and {file.name}"
        if shape != first_shape:
            self._error(f"{pair} differ in shape (z, y, x); found {first_shape} and {shape}", SAME_GRID)
        if not np.allclose(geometry.spacing, first.spacing):
            self._error(f"{pair} differ in spacing (z, y, x); found {mm(first)} and {mm(geometry)}", SAME_GRID)
        elif not same_placement(geometry, first):
            self._warn(f"{pair} differ in origin or direction", "The image's is used. Check that they overlay.")

    def _error(self, message: str, fix: str) -> None:
        self.problems.append(Problem(self._files.case_id, "error", message, fix))

    def _warn(self, message: str, fix: str) -> None:
        self.problems.append(Problem(self._files.case_id, "warning", message, fix))


def _of_all_cases(cases: Sequence[CheckedCase], reader: ImageIO) -> list[Problem]:
    """Problems that no single case shows."""
    problems = []
    if cases and all(case.background_only for case in cases):
        problems.append(
            Problem(
                None,
                "error",
                "no label map has foreground: all are 0 everywhere",
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


def label_values(label: np.ndarray) -> list[int]:
    """The values of a label map (Z, Y, X), ascending."""
    lowest, highest = int(label.min()), int(label.max())
    if highest - lowest >= COUNTED:
        return [int(value) for value in np.unique(label)]
    seen = np.zeros(highest - lowest + 1, dtype=bool)
    for plane in label:  # plane by plane, since counting copies its input to 64 bits
        counts = np.bincount(plane.ravel() - lowest, minlength=seen.size)
        seen |= counts > 0
    return [int(index) + lowest for index in np.flatnonzero(seen)]


def check_label_values(label: np.ndarray, labels: Labels, case_id: str) -> None:
    """Refuse a label map, any shape, with values that the dataset does not declare.

    Raises:
        SegflowError: There are some. The error names the case.
    """
    declared = declared_values(labels)
    unknown = [value for value in label_values(label) if value not in declared]
    if unknown:
        raise SegflowError(
            "the label map holds values that dataset.json does not name",
            case=case_id,
            found=unknown[:10],
            expected=f"only {sorted(declared)}",
            fix="Name them in dataset.json, or correct the label map.",
        )


def declared_values(labels: Labels) -> tuple[int, ...]:
    """All values that a label map may hold, with the ignore label, ascending."""
    return (*labels.all_labels, *(() if labels.ignore_label is None else (labels.ignore_label,)))


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
    values = list(declared_values(description.labels))
    if values != list(range(len(values))):
        problems.append(
            Problem(
                None,
                "error",
                f"dataset.json: labels are not consecutive; found {values}; expected {list(range(len(values)))}",
                "Renumber them into a new dataset: segflow convert source=FOLDER dataset_id=NUMBER.",
            )
        )
    return problems
