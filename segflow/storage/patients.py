"""Cases of the same patient, by their names or by the identity in their headers."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segflow.core.command_line import command_line
from segflow.core.splits import Split
from segflow.core.wording import counted, some
from segflow.storage.problems import Problem

WORDS = (
    *("visit", "session", "ses", "scan", "frame", "timepoint", "time", "tp", "t", "week", "day", "month", "year"),
    *("exam", "baseline", "followup", "followUp", "fu", "pre", "post", "ed", "es", "repeat", "rep", "run"),
    *("left", "right", "l", "r"),
)
"""Words at the end of a name that tell images of one patient apart."""
_BY_WORD = re.compile(rf"(.*\d.*?)[-_. ]({'|'.join(WORDS)})[-_]?(\d*)", re.IGNORECASE)
_BY_NUMBER = re.compile(r"(.*\d)[-_](\d{1,2})")
MOST_VISITS = 5
"""A name of more cases that differ by a number only is that of a site or a study, not of a patient."""
LEAST_PATIENTS = 3

HEADER = 1 << 16
"""Bytes at the start of a file in which its text is looked for."""
_PATIENT_ID = re.compile(rb"^0010\|0020\s*:?=\s*([^\r\n]+)", re.MULTILINE)
TEXT_HEADERS = (".nrrd", ".nhdr", ".mha", ".mhd")


def patient_in_header(file: Path) -> str | None:
    """DICOM's patient id in an image's header (NRRD, MetaImage), or in the JSON file that dcm2niix writes beside it."""
    try:
        if file.suffix.lower() in TEXT_HEADERS:
            with file.open("rb") as stream:
                found = _PATIENT_ID.search(stream.read(HEADER))
            return found[1].decode("utf-8", "replace").strip() or None if found else None
        beside = notes_beside(file)
        if not beside.is_file():
            return None
        content = json.loads(beside.read_bytes()[:HEADER])
        value = content.get("PatientID") if isinstance(content, dict) else None
        return str(value).strip() or None if value is not None else None
    except (OSError, ValueError, RecursionError):  # notes beside an image may be anything
        return None


def notes_beside(image: Path) -> Path:
    """Where dcm2niix writes the notes on an image, whether they exist or not."""
    return image.with_name(image.name.removesuffix(".gz").rpartition(".")[0] + ".json")


def patients_by_name(case_ids: Iterable[str]) -> tuple[dict[str, str], str]:
    """Case → patient, for the cases whose names say that others are of the same patient.

    Returns:
        The patients, empty if names do not tell; and a regular expression for ``fold.group_by``.
    """
    ids = sorted(case_ids)
    words: set[str] = set()
    by_word: dict[str, list[str]] = defaultdict(list)
    for case_id in ids:
        match = _BY_WORD.fullmatch(case_id)
        by_word[match[1] if match else case_id].append(case_id)
        if match:
            words.add(match[2])
    several = {patient: cases for patient, cases in by_word.items() if len(cases) > 1}
    if several:
        pattern = f"^(.+?)([-_. ]({'|'.join(sorted(words))})[-_]?[0-9]*)?$"
        return {case_id: patient for patient, cases in several.items() for case_id in cases}, pattern
    by_number: dict[str, list[str]] = defaultdict(list)
    for case_id in ids:
        if match := _BY_NUMBER.fullmatch(case_id):
            by_number[match[1]].append(case_id)
    several = {patient: cases for patient, cases in by_number.items() if len(cases) > 1}
    if len(several) < LEAST_PATIENTS or max(map(len, several.values())) > MOST_VISITS:
        return {}, ""
    return {case_id: patient for patient, cases in several.items() for case_id in cases}, "^(.*[0-9])[-_][0-9]{1,2}$"


def patients_in_several_cases(
    names: Sequence[str],
    patients: Mapping[str, str],
    splits: Sequence[Split] | None,
    groups: Mapping[str, str] | None = None,
) -> list[Problem]:
    """Warnings about patients in several cases that splits would separate.

    Args:
        names: All cases.
        patients: Case → identity in its header, where there is one.
        splits: The splits that the dataset brings, if any. If they keep the cases of patients together, all is well.
        groups: Case → group that dataset.json gives, which splits keep together.
    """
    problems = []
    by_name, pattern = patients_by_name(names)
    if by_name and _separates(splits, by_name, groups or {}):
        text, examples = _listed(by_name)
        problems.append(
            Problem(
                None,
                "warning",
                f"{text} by their names: {examples}; folds made case by case put a patient on both sides",
                f"Keep them together: {command_line('plan', fold__group_by=pattern)}, with your dataset behind it. Or "
                "give fold.group_by a CSV file of case and patient.",
            )
        )
    apart = _shared(patients, by_name)
    if apart and _separates(splits, apart, groups or {}):
        text, examples = _listed(apart)
        problems.append(
            Problem(
                None,
                "warning",
                f"{text} by the patient id in their headers: {examples}; folds made case by case put a patient on both "
                "sides",
                "Keep them together: give fold.group_by a CSV file of case and patient when planning.",
            )
        )
    return problems


def _shared(by_id: Mapping[str, str], by_name: Mapping[str, str]) -> dict[str, str]:
    """Case → identity, for those that several cases have, unless their names tell it already."""
    names: dict[str, set[str]] = defaultdict(set)
    for case_id, identity in by_id.items():
        names[identity].add(by_name.get(case_id, case_id))
    return {case_id: identity for case_id, identity in by_id.items() if len(names[identity]) > 1}


def _separates(splits: Sequence[Split] | None, patients: Mapping[str, str], groups: Mapping[str, str]) -> bool:
    """Whether splits, or those made of the groups, can put cases of one patient on both sides."""
    if not splits:
        units = {(patient, groups.get(case, case)) for case, patient in patients.items()}
        return len(units) > len({patient for patient, _ in units})
    return any(
        {patients.get(case, case) for case in split.train} & {patients.get(case, case) for case in split.val}
        for split in splits
    )


def _listed(patients: Mapping[str, str]) -> tuple[str, str]:
    """How many cases are of how many patients; and the cases of the first ones."""
    groups: dict[str, list[str]] = defaultdict(list)
    for case_id, patient in sorted(patients.items()):
        groups[patient].append(case_id)
    examples = some([" and ".join(cases[:3]) for cases in groups.values()], most=3, separator="; ")
    return f"{counted(len(patients), 'case')} are of {counted(len(groups), 'patient')}", examples
