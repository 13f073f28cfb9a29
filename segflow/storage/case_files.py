"""The files of each case (recipe 1.3). Each folder is listed once, and its names are passed over once."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.names import shortened, why_unsafe
from segflow.core.wording import some
from segflow.storage.case_names import (
    GUESSES,
    foreign_image,
    group_by_name,
    image_ending,
    name_the_ending,
    nearest_name,
    passed_over,
    unsafe_name,
)
from segflow.storage.channel_names import case_and_channel
from segflow.storage.folder_files import is_image_path
from segflow.storage.listing import describe_passed_over, list_folder, missing_file
from segflow.storage.problems import Problem, raise_errors

logger = logging.getLogger(__name__)

IMAGES, LABELS = "imagesTr", "labelsTr"
HELD_OUT = ("imagesTs", "labelsTs")


@dataclass(frozen=True, slots=True)
class Discovery:
    """The cases of a dataset, and problems of their files.

    Attributes:
        cases: Sorted by id. A case whose label is missing has ``label=None``.
        problems: Problems that show without opening an image.
    """

    cases: list[CaseFiles]
    problems: list[Problem] = field(default_factory=list)


def find_training_cases(folder: Path, description: DatasetDescription) -> list[CaseFiles]:
    """The training cases of a raw dataset with their labels, sorted by id. Skipped files are logged.

    Args:
        folder: The raw dataset.
        description: Its dataset.json; a file list under its key ``dataset`` replaces imagesTr and labelsTr.

    Raises:
        SegflowError: A folder, label or channel is missing, a file is misnamed, or there is no case at all. All
            problems are listed together.
    """
    found = discover(folder, description)
    raise_errors(f"the files of {folder.name} do not fit together", found.problems)
    for problem in found.problems:  # only warnings are left
        if problem.case is None:
            logger.warning("%s", problem)
    if warnings := [problem.message for problem in found.problems if problem.case is not None]:
        logger.warning("%s: %s", folder.name, some(warnings))
    return found.cases


def discover(folder: Path, description: DatasetDescription) -> Discovery:
    """Like `find_training_cases`, but problems are returned, with warnings.

    Raises:
        SegflowError: imagesTr or labelsTr does not exist.
    """
    if "dataset" in description.raw:
        return _listed_in_json(folder, description.raw["dataset"], may_lack=description.allows_missing_channels)
    ending, label_ending = description.file_ending, description.label_ending
    images, maps = list_folder(folder / IMAGES), list_folder(folder / LABELS)
    may_lack = description.allows_missing_channels
    cases, problems = group_by_name(images, ending, len(description.channels), may_lack=may_lack)
    problems.extend(passed_over(maps, label_ending))
    present = set(maps.files)
    known = {case.case_id for case in cases}
    lost = [case_and_channel(name.removesuffix(ending)) for name in images.lost]
    known.update(case_id for case_id, number in lost if number is not None)
    unused = [name for name in maps.files if name.removesuffix(label_ending) not in known]
    labelled = []
    for case in cases:
        wanted = f"{case.case_id}{label_ending}"
        if wanted in present:
            labelled.append(replace(case, label=folder / LABELS / wanted))
            continue
        labelled.append(case)
        if wanted in maps.lost:
            continue  # reported with the other links
        near = nearest_name(wanted, unused) if len(problems) < GUESSES else None
        fix = f"Is it {LABELS}/{near}? Rename it." if near else "Add it."
        if near and image_ending(near) == near.removeprefix(case.case_id):  # the same name with another ending
            fix = name_the_ending(near)
        problems.append(
            Problem(
                case.case_id,
                "error",
                f"the case has no label; expected {LABELS}/{wanted}",
                f"{fix} Or remove the image.",
            )
        )
    for name in unused:
        if not name.endswith(label_ending):
            problems.extend(foreign_image(LABELS, name, label_ending, name_the_ending(name)))
        else:
            case_id = name.removesuffix(label_ending)
            problems.append(Problem(case_id, "warning", f"{LABELS}/{name} has no image", "It is not used."))
    return Discovery(labelled, problems)


def look_at_held_out(folder: Path, file_ending: str, label_ending: str) -> list[Problem]:
    """Warnings about files in imagesTs and labelsTs, if they exist, that prediction and evaluation would skip."""
    problems = []
    for name, ending in zip(HELD_OUT, (file_ending, label_ending), strict=True):
        if (folder / name).is_dir():
            listing = list_folder(folder / name)
            taken = [file for file in listing.files if file.endswith(ending)]
            if passed := listing.passed_over(taken, [ending]):
                fix = f"Planning and training need none of them; convert what are images to {ending}."
                problems.append(Problem(None, "warning", describe_passed_over(name, passed), fix))
    return problems


def _listed_in_json(folder: Path, listing: Any, *, may_lack: bool) -> Discovery:
    """Cases under dataset.json's key ``dataset``. Environment variables are expanded; paths start at the folder.

    ``may_lack``: null in a list of images stands for a channel that is missing.
    """
    if not isinstance(listing, Mapping) or not listing:
        raise SegflowError(
            "dataset.json: 'dataset' must map case ids to files",
            found=shortened(listing),
            expected='{"case": {"images": ["…"], "label": "…"}}',
        )
    cases, problems = [], []
    for case_id in sorted(listing):
        entry = listing[case_id]
        if reason := why_unsafe(case_id):
            problems.append(unsafe_name("dataset.json's key 'dataset'", case_id, reason))
            continue
        if not isinstance(entry, Mapping) or not entry.get("images") or not isinstance(entry["images"], (list, tuple)):
            problems.append(
                Problem(
                    case_id, "error", "dataset.json lists no images for the case", '{"images": ["…"], "label": "…"}'
                )
            )
            continue
        missing = tuple(k for k, text in enumerate(entry["images"]) if text is None) if may_lack else ()
        listed = [text for k, text in enumerate(entry["images"]) if k not in missing]
        label = entry.get("label")
        if not label:
            problems.append(Problem(case_id, "error", "dataset.json lists no label for the case", "Add it."))
        files = []
        for text in (*listed, *([label] if label else [])):
            try:
                files.append(listed_file(folder, text, expand=True))
            except SegflowError as error:
                message = f"{error}, which dataset.json lists"
                problems.append(Problem(case_id, "error", message, "Correct the list."))
        if not listed:
            problems.append(Problem(case_id, "error", "dataset.json lists no image for the case", "Leave it out."))
        elif len(files) == len(listed) + bool(label):
            images = tuple(files[: len(listed)])
            cases.append(CaseFiles(case_id, images, files[-1] if label else None, missing))
    return Discovery(cases, problems)


def listed_file(folder: Path, text: Any, *, expand: bool = False) -> Path:
    """The file that a table or a dataset.json names.

    Args:
        folder: Folder that relative paths start from.
        text: The path, as written there.
        expand: Whether environment variables in it are replaced by their values.

    Raises:
        SegflowError: There is no such file, or the text is not a path.
    """
    try:
        file = folder / Path(os.path.expandvars(text) if expand else text).expanduser()
        found = is_image_path(file)
    except (TypeError, ValueError, RuntimeError, OSError):  # no text, a NUL in it, no such user, too long a name
        raise SegflowError(f"there is no file {shortened(text)}") from None
    if not found:
        error = missing_file(file)
        raise SegflowError(error.problem, found=error.found)
    return file
