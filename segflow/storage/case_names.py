"""Case and channel from a file's name (recipe 1.3), and messages about names that do not fit."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from segflow.core.case import CaseFiles
from segflow.core.dataset import COUNT_FROM_0, LABEL_ENDING
from segflow.core.missing_channels import ALLOW_MISSING
from segflow.core.names import shortened, why_unsafe
from segflow.core.wording import counted, some
from segflow.storage.channel_names import case_and_channel, channel_name
from segflow.storage.listing import EMPTY, FETCH, LOST, Listing, describe_passed_over
from segflow.storage.problems import Problem

IMAGE_ENDINGS = (
    *(".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".gipl", ".img", ".hdr", ".dcm"),
    *(".ome.zarr", ".zarr", ".b2nd"),
    *(".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg", ".npy", ".npz", ".mgz"),
)
"""Endings that a person takes for images, whether segflow reads them or not."""
DIGITS_OF_A_NAME = "A case whose own name ends in four digits needs the channel's number too: scan_2022_0000."
MAY_LACK = f'Or train on cases that lack channels: "{ALLOW_MISSING}": true in dataset.json.'
GUESSES = 20
"""Number of problems for which the nearest existing name is searched; each search goes through all names."""


def group_by_name(
    listing: Listing, ending: str, channels: int, *, may_lack: bool = False
) -> tuple[list[CaseFiles], list[Problem]]:
    """The cases by their names, and problems of the names. ``may_lack``: cases may lack channels, each a file."""
    folder, names = listing.folder, listing.files
    problems = passed_over(listing, ending)
    files: dict[str, dict[int, str]] = {}
    for name in names:
        if not name.endswith(ending):
            problems.extend(foreign_image(folder.name, name, ending))
            continue
        case_id, number = case_and_channel(name.removesuffix(ending))
        if number is not None:
            files.setdefault(case_id, {})[number] = name
            continue
        text = f"{folder.name}/{name} has no channel number; expected {channel_name(case_id, 0, ending)}"
        problems.append(Problem(case_id, "error", text, "Rename it: four digits, one file per channel."))
    if not files and all(problem.severity == "warning" for problem in problems):
        seen = "it is empty" if listing.summary() == EMPTY else f"found {listing.summary()}"
        text = f"{folder} holds no image; {seen}; expected names like {channel_name('case', 0, ending)}"
        problems.append(Problem(None, "error", text))
    lacking = {case: missing_numbers(numbered, channels) for case, numbered in files.items()} if may_lack else {}
    from_one = [numbered for numbered in files.values() if digits_mean(numbered, channels) == "counted from 1"]
    if from_one and len(from_one) == len(files):
        found = some([name for numbered in from_one for name in numbered.values()])
        text = f"{folder.name}: the channels of {counted(len(files), 'case')} are counted from 1; found {found}"
        problems.append(Problem(None, "error", text, COUNT_FROM_0))
    else:
        wrong = {case: numbered for case, numbered in files.items() if not lacking.get(case)}
        problems.extend(_wrong_numbers(wrong, channels, ending, names, already=len(problems)))
    cases = []
    for case_id in sorted(files):
        if reason := why_unsafe(case_id):
            problems.append(unsafe_name(folder.name, case_id, reason))
        else:
            images = tuple(folder / files[case_id][k] for k in sorted(files[case_id]))
            cases.append(CaseFiles(case_id, images, missing=lacking.get(case_id, ())))
    return cases, problems


def digits_mean(numbers: Collection[int], channels: int) -> Literal["channels", "counted from 1", "names", "nothing"]:
    """The meaning of the four digits at the end of names, from all numbers that follow the same beginning.

    Args:
        numbers: Numbers from the names, such as 0 and 1, or 2022 and 2023.
        channels: Number of channels of the dataset; one file may hold them all.

    Returns:
        ``names``: none can be a channel, so they belong to the names of cases. ``nothing``: a channel is missing, or
        there is one too many.
    """
    found = sorted(numbers)
    if found in ([0], list(range(channels))):
        return "channels"
    if found == list(range(1, channels + 1)):
        return "counted from 1"
    return "names" if found[0] >= channels else "nothing"


def missing_numbers(numbers: Collection[int], channels: int) -> tuple[int, ...]:
    """Numbers of the channels that a case lacks, one file for each channel; empty if a number is no channel."""
    lacking = tuple(number for number in range(channels) if number not in numbers)
    return lacking if numbers and max(numbers) < channels else ()


def _wrong_numbers(
    files: Mapping[str, Mapping[int, str]], channels: int, ending: str, names: Sequence[str], already: int
) -> list[Problem]:
    problems: list[Problem] = []
    split = channels > 1 and any(len(numbered) > 1 for numbered in files.values())
    for case_id, numbered in files.items():
        if digits_mean(numbered, channels) == "names":
            found = some(list(numbered.values()))
            text = f"the four digits at the end are no channel; found {found}; expected {channels} counted from 0000"
            problems.append(Problem(case_id, "error", text, DIGITS_OF_A_NAME))
            continue
        expected = range(channels if split or len(numbered) > 1 else 1)
        candidates = names if already + len(problems) < GUESSES else ()
        problems.extend(_wrong_channels(case_id, numbered, expected, channels, ending, candidates))
    return problems


def _wrong_channels(
    case_id: str, numbered: Mapping[int, str], expected: range, channels: int, ending: str, names: Sequence[str]
) -> list[Problem]:
    missing = [channel_name(case_id, number, ending) for number in expected if number not in numbered]
    extra = [name for number, name in numbered.items() if number not in expected]
    problems = []
    if missing:
        others = [name for name in names if name not in numbered.values()]
        near = nearest_name(missing[0], others)
        problems.append(
            Problem(
                case_id,
                "error",
                f"a channel is missing: {some(missing)}; found {some(list(numbered.values()))}; "
                f"expected {channels} channels numbered from 0000",
                f"{f'The nearest existing file is {near}.' if near else 'Add it, or remove the case.'} {MAY_LACK}",
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


def unsafe_name(where: str, case_id: str, reason: str) -> Problem:
    text = f"{where}: {shortened(case_id)} cannot be the name of a case: it {reason}"
    return Problem(None, "error", text, "Files are named after their case; rename it.")


def foreign_image(
    folder: str,
    name: str,
    ending: str,
    fix: str = "Convert it, remove it, or correct file_ending in dataset.json.",
) -> list[Problem]:
    """The problem of an image with another ending than the dataset's. Files that are not images are ignored."""
    kind = image_ending(name)
    if kind is None:
        return []
    return [
        Problem(
            case_and_channel(name[: -len(kind)]).case_id,
            "error",
            f"mixed file endings: {folder}/{name} ends in {name[-len(kind) :]}; expected {ending}",
            fix,
        )
    ]


def image_ending(name: str) -> str | None:
    """The ending of an image, as it is written in its name; None for other files."""
    known = next((known for known in IMAGE_ENDINGS if name.lower().endswith(known)), None)
    return None if known is None else name[-len(known) :]


def name_the_ending(label: str) -> str:
    """Advice about a label map whose ending is not that of the images."""
    ending = image_ending(label)
    return (
        f'If all label maps end so, say it in dataset.json: "{LABEL_ENDING}": "{ending}".' if ending else "Rename it."
    )


def passed_over(listing: Listing, ending: str) -> list[Problem]:
    """Problems of entries in a dataset's folder that are not files of its ending, nor images as in `foreign_image`."""
    where, problems = listing.folder.name, []
    if listing.lost:
        first, target = next(iter(listing.lost.items()))
        text = f"{where}: {counted(len(listing.lost), 'link')} to nowhere: {some([*listing.lost])}"
        problems.append(Problem(None, "error", f"{text}; found {first} → {target}", FETCH))
    told = [name for name in listing.files if name.endswith(ending) or image_ending(name)]
    passed = {why: names for why, names in listing.passed_over(told, [ending]).items() if why != LOST}
    if passed:
        text = describe_passed_over(where, passed)
        problems.append(Problem(None, "warning", text, f"Convert what are images to {ending}."))
    return problems


def nearest_name(wanted: str, names: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(wanted, names, n=1)
    return near[0] if near else None
