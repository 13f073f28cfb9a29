"""Which files belong to which case (recipe 1.3). One listing per folder, one pass over its names."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from segflow.core.case import CaseFiles
from segflow.core.dataset import DatasetDescription
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.names import shortened, why_unsafe

IMAGES, LABELS = "imagesTr", "labelsTr"
NUMBERED = re.compile(r"(.+)_(\d{4})", re.DOTALL)
IMAGE_ENDINGS = (
    *(".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".img", ".hdr", ".dcm"),
    *(".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".npy", ".npz", ".mgz"),
)
"""Files of these endings are images to a person, whether we read them or not."""
LISTED = 5
"""Names that a message lists before it says how many more there are."""
GUESSES = 20
"""Problems for which the nearest existing file is looked for; each search walks through all names."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a dataset.

    Attributes:
        case: Id of the case, or None where it concerns the whole dataset.
        severity: An ``error`` must be mended before planning; a ``warning`` should be looked at.
        message: What was found and what was expected.
        fix: What to do about it.
    """

    case: str | None
    severity: Literal["error", "warning"]
    message: str
    fix: str | None = None

    @classmethod
    def of(cls, error: SegflowError, case: str | None = None) -> Problem:
        """The problem that an error reports."""
        bare = SegflowError(error.problem, found=error.found, expected=error.expected)
        return cls(error.case or case, "error", str(bare), error.fix)

    def __str__(self) -> str:
        return str(SegflowError(self.message, case=self.case, fix=self.fix))


@dataclass(frozen=True, slots=True)
class Discovery:
    """The cases of a dataset, and what is wrong with their files.

    Attributes:
        cases: Sorted by id. A case whose label is missing has ``label=None``.
        problems: Found without opening an image.
    """

    cases: list[CaseFiles]
    problems: list[Problem] = field(default_factory=list)


def find_training_cases(folder: Path, description: DatasetDescription) -> list[CaseFiles]:
    """The training cases of a raw dataset, labels attached, sorted by id.

    Args:
        folder: The raw dataset.
        description: Its dataset.json; a file list under its key ``dataset`` replaces imagesTr and labelsTr.

    Raises:
        SegflowError: A folder, label or channel is missing, a file is misnamed, or there is no case at all. Everything
            wrong is listed together.
    """
    found = discover(folder, description)
    raise_errors(f"the files of {folder.name} do not fit together", found.problems)
    return found.cases


def find_images(folder: Path, file_ending: str, channels: int) -> list[CaseFiles]:
    """The cases of a folder of images without labels, sorted by id.

    Args:
        folder: Holds ``<case>_0000<ending>``, ``<case>_0001<ending>``, …
        file_ending: Ending of the files, with the dot.
        channels: Channels of a case; a single file may hold them all.

    Raises:
        SegflowError: The folder is missing or empty, a file is misnamed, or a case lacks a channel or has one too many.
    """
    names = list_files(folder)
    cases, problems = _group(folder, names, file_ending, channels)
    raise_errors(f"the images in {folder} do not fit together", problems)
    return cases


def discover(folder: Path, description: DatasetDescription) -> Discovery:
    """As `find_training_cases`, but problems are returned, warnings included.

    Raises:
        SegflowError: imagesTr or labelsTr does not exist.
    """
    if "dataset" in description.raw:
        return _listed_in_json(folder, description.raw["dataset"])
    ending = description.file_ending
    cases, problems = _group(folder / IMAGES, list_files(folder / IMAGES), ending, len(description.channels))
    label_names = list_files(folder / LABELS)
    present = set(label_names)
    ids = {case.case_id for case in cases}
    unused = [name for name in label_names if name.removesuffix(ending) not in ids]
    labelled = []
    for case in cases:
        wanted = f"{case.case_id}{ending}"
        if wanted in present:
            labelled.append(CaseFiles(case.case_id, case.images, folder / LABELS / wanted))
            continue
        labelled.append(case)
        near = _nearest(wanted, unused) if len(problems) < GUESSES else None
        fix = f"Is it {LABELS}/{near}? Rename it." if near else "Add it."
        problems.append(
            Problem(
                case.case_id,
                "error",
                f"the case has no label; expected {LABELS}/{wanted}",
                f"{fix} Or remove the image.",
            )
        )
    for name in unused:
        if not name.endswith(ending):
            problems.extend(_foreign(LABELS, name, ending))
        else:
            case_id = name.removesuffix(ending)
            problems.append(Problem(case_id, "warning", f"{LABELS}/{name} has no image", "It is not used."))
    return Discovery(labelled, problems)


def raise_errors(summary: str, problems: Iterable[Problem]) -> None:
    """Raise what is wrong; warnings pass.

    Raises:
        SegflowError: There is one error; `CaseErrors` where there are several.
    """
    errors = [problem for problem in problems if problem.severity == "error"]
    if len(errors) == 1:
        raise SegflowError(errors[0].message, case=errors[0].case, fix=errors[0].fix)
    if errors:
        raise CaseErrors(summary, [str(error) for error in errors])


def list_files(folder: Path) -> list[str]:
    """Names of the visible files in a folder, sorted.

    Raises:
        SegflowError: There is no such folder.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
    except FileNotFoundError:
        raise SegflowError(f"there is no folder {folder}", fix="Check the path.") from None
    except OSError as error:
        raise SegflowError(f"cannot list {folder}: {error.strerror or error}") from error


def _group(folder: Path, names: Sequence[str], ending: str, channels: int) -> tuple[list[CaseFiles], list[Problem]]:
    """Cases by name, and what is wrong with the names."""
    problems: list[Problem] = []
    files: dict[str, dict[int, str]] = {}
    for name in names:
        if not name.endswith(ending):
            problems.extend(_foreign(folder.name, name, ending))
        elif match := NUMBERED.fullmatch(name.removesuffix(ending)):
            files.setdefault(match[1], {})[int(match[2])] = name
        else:
            stem = name.removesuffix(ending)
            problems.append(
                Problem(
                    stem,
                    "error",
                    f"{folder.name}/{name} has no channel number; expected {stem}_0000{ending}",
                    "Rename it: four digits, one file per channel.",
                )
            )
    if not files and not problems:
        seen = f"found {some(names)}" if names else "it is empty"
        problems.append(
            Problem(None, "error", f"{folder} holds no image; {seen}; expected names like case_0000{ending}")
        )
    split = channels > 1 and any(len(numbered) > 1 for numbered in files.values())
    for case_id, numbered in files.items():
        expected = range(channels if split or len(numbered) > 1 else 1)
        candidates = names if len(problems) < GUESSES else ()
        problems.extend(_wrong_channels(case_id, numbered, expected, channels, ending, candidates))
    cases = []
    for case_id in sorted(files):
        if reason := why_unsafe(case_id):
            problems.append(_unsafe(folder.name, case_id, reason))
        else:
            cases.append(CaseFiles(case_id, tuple(folder / files[case_id][k] for k in sorted(files[case_id]))))
    return cases, problems


def _wrong_channels(
    case_id: str, numbered: Mapping[int, str], expected: range, channels: int, ending: str, names: Sequence[str]
) -> list[Problem]:
    missing = [f"{case_id}_{number:04d}{ending}" for number in expected if number not in numbered]
    extra = [name for number, name in numbered.items() if number not in expected]
    problems = []
    if missing:
        others = [name for name in names if name not in numbered.values()]
        near = _nearest(missing[0], others)
        problems.append(
            Problem(
                case_id,
                "error",
                f"a channel is missing: {some(missing)}; found {some(list(numbered.values()))}; "
                f"expected {channels} channels numbered from 0000",
                f"The nearest existing file is {near}." if near else "Add it, or remove the case.",
            )
        )
    if extra:
        problems.append(
            Problem(
                case_id,
                "error",
                f"a channel is too many: {some(extra)}; expected {channels} as dataset.json declares",
                "Remove it, or declare it in channel_names.",
            )
        )
    return problems


def _unsafe(where: str, case_id: str, reason: str) -> Problem:
    text = f"{where}: {shortened(case_id)} cannot be the name of a case: it {reason}"
    return Problem(None, "error", text, "Files are named after their case; rename it.")


def _foreign(folder: str, name: str, ending: str) -> list[Problem]:
    """An image of another ending than the dataset's; files that are no images may lie about."""
    kind = next((known for known in IMAGE_ENDINGS if name.lower().endswith(known)), None)
    if kind is None:
        return []
    stem = name[: -len(kind)]
    match = NUMBERED.fullmatch(stem)
    return [
        Problem(
            match[1] if match else stem,
            "error",
            f"mixed file endings: {folder}/{name} ends in {name[-len(kind) :]}; expected {ending}",
            "Convert it, remove it, or correct file_ending in dataset.json.",
        )
    ]


def _listed_in_json(folder: Path, listing: Any) -> Discovery:
    """Cases of dataset.json's key ``dataset``: environment variables expanded, relative paths below the folder."""
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
            problems.append(_unsafe("dataset.json's key 'dataset'", case_id, reason))
            continue
        if not isinstance(entry, Mapping) or not entry.get("images") or not isinstance(entry["images"], (list, tuple)):
            problems.append(
                Problem(
                    case_id, "error", "dataset.json lists no images for the case", '{"images": ["…"], "label": "…"}'
                )
            )
            continue
        label = entry.get("label")
        if not label:
            problems.append(Problem(case_id, "error", "dataset.json lists no label for the case", "Add it."))
        files = []
        for text in (*entry["images"], *([label] if label else [])):
            try:
                files.append(listed_file(folder, text, expand=True))
            except SegflowError as error:
                message = f"{error}, which dataset.json lists"
                problems.append(Problem(case_id, "error", message, "Correct the list."))
        if len(files) == len(entry["images"]) + bool(label):
            images = tuple(files[: len(entry["images"])])
            cases.append(CaseFiles(case_id, images, files[-1] if label else None))
    return Discovery(cases, problems)


def listed_file(folder: Path, text: Any, *, expand: bool = False) -> Path:
    """The file that a table or a dataset.json names.

    Args:
        folder: What relative paths count from.
        text: As it stands there.
        expand: Whether environment variables in it are replaced by their values.

    Raises:
        SegflowError: There is no such file, or it is no path.
    """
    try:
        file = folder / Path(os.path.expandvars(text) if expand else text).expanduser()
        found = file.is_file()
    except (TypeError, ValueError, RuntimeError, OSError):  # no text, a NUL in it, no such user, too long a name
        raise SegflowError(f"there is no file {shortened(text)}") from None
    if not found:
        raise SegflowError(f"there is no file {file}")
    return file


def _nearest(wanted: str, names: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(wanted, names, n=1)
    return near[0] if near else None


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
