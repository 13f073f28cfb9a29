"""``segflow doctor``: all problems of a raw dataset at once, and a mended copy of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segflow.apps import _datasets, _next, _terminal
from segflow.apps._records import DatasetCommand, within_memory
from segflow.core.errors import SegflowError
from segflow.core.wording import LISTED, some

if TYPE_CHECKING:
    from segflow.core.dataset import DatasetDescription
    from segflow.storage.images import ImageIO
    from segflow.storage.mend_case import MendRules
    from segflow.storage.problems import Problem

STRAY = ("refuse", "background", "ignore")
UNCHANGED = ("link", "copy")

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Doctor(DatasetCommand):
    """Settings of ``segflow doctor``.

    Attributes:
        processes: Cases at once; null uses all processors, 0 works in this process.
        fix: Write a mended copy of the dataset into ``output``. The dataset itself is never changed.
        output: Folder of the mended copy, which is continued if it was interrupted.
        unknown_labels: What ``fix`` does with label values that dataset.json does not name: ``refuse`` leaves out their
            cases; ``background`` and ``ignore`` put that label in their place.
        unchanged: How ``fix`` brings over files that need no change: ``link`` makes symbolic links to the dataset,
            which must then stay where it is; ``copy`` copies them.
    """

    PLACES = ("output",)

    processes: int | None = None
    fix: bool = False
    output: Path | None = None
    unknown_labels: str = "refuse"
    unchanged: str = "link"

    def __post_init__(self) -> None:
        for name, options in (("unknown_labels", STRAY), ("unchanged", UNCHANGED)):
            if getattr(self, name) not in options:
                raise SegflowError(f"unknown {name}", found=repr(getattr(self, name)), expected=" | ".join(options))
        if self.fix and self.output is None:
            raise SegflowError("fix=true needs a folder for the mended copy", fix="Name a new one: output=FOLDER")
        if self.output is not None and not self.fix:
            raise SegflowError("output= is for the mended copy", fix="Add fix=true, or leave output= out.")


@within_memory
def run(settings: Doctor) -> None:
    """Check the dataset and list its problems, or mend them in a copy. The command fails if errors remain.

    A missing dataset is made or downloaded, if its source says how.
    """
    dataset = _datasets.announce(settings, "doctor")
    from segflow.core.label_meaning import what_cases_lack
    from segflow.execution.machine import processor_count
    from segflow.storage.case_files import discover
    from segflow.storage.images import reader_of
    from segflow.storage.raw_dataset import check_dataset, read_description

    with _terminal.progress() as progress:
        raw = _datasets.raw_folder(dataset, settings.paths, make=True, progress=progress)
        description = read_description(raw)
        cases = discover(raw, description).cases
        for told in what_cases_lack(description, cases):
            log.info("%s", told)
        reader = reader_of((case.images[0] for case in cases), description.file_ending, description.reader)
        processes = processor_count() if settings.processes is None else settings.processes
        if not settings.fix:
            problems = check_dataset(raw, description, reader, processes=processes, progress=progress)
    if settings.fix:
        _mend(settings, raw, description, reader, processes)
        return
    if not problems:
        _terminal.say(f"{raw}: nothing is wrong.")
        _next.say(_next.after_doctor(settings))
        return
    _show(str(raw), problems, whole=settings.verbose)
    errors = sum(p.severity == "error" for p in problems)
    if errors:
        mend = _next.mending(settings, raw)
        raise SegflowError(
            f"{'1 error' if errors == 1 else f'{errors} errors'} must be corrected before planning",
            fix=f"Those that need no decision are mended in a copy by: {mend}",
        )
    _next.say(_next.after_doctor(settings))


def _mend(settings: Doctor, raw: Path, description: DatasetDescription, reader: ImageIO, processes: int) -> None:
    """Write the mended copy, and tell what was changed and what remains."""
    from segflow.storage.mend_dataset import LOG_FILE, mend_dataset

    if settings.output is None:
        raise SegflowError("fix=true needs a folder for the mended copy")
    rules = _rules(settings, description)
    with _terminal.progress() as progress:
        result = mend_dataset(raw, description, reader, settings.output, rules, processes=processes, progress=progress)
    if result.changes:
        rows = [(change.case, change.file, change.found, change.done) for change in result.changes]
        columns = ("case", "file", "found", "done")
        _terminal.table("Mended", columns, rows if settings.verbose else _folded(rows, (2, 3)))
    if result.left:
        _show("Left out, for you to correct", result.left, whole=settings.verbose)
    if result.remaining:
        _show("To be looked at in the copy", result.remaining, whole=settings.verbose)
    files = "linked to" if settings.unchanged == "link" else "copied from"
    _terminal.say(
        f"Written to {result.folder}: {_terminal.cases(result.cases)}; files without a change are {files} {raw}. "
        f"Every change is in {result.folder / LOG_FILE}."
    )
    if result.left:
        cases = {problem.case for problem in result.left} - {None}
        raise SegflowError(
            f"the copy lacks {_terminal.cases(len(cases))}, which could not be mended",
            fix=f"Correct them in {raw} and write another copy, or go on without them: "
            f"{_next.planning_of_copy(settings, result.folder)}",
        )
    _next.say(_next.after_mending(settings, result.folder))


def _rules(settings: Doctor, description: DatasetDescription) -> MendRules:
    from segflow.storage.mend_case import MendRules

    labels, stray = description.labels, None
    if settings.unknown_labels == "background":
        stray = labels.value_of(0)
    elif settings.unknown_labels == "ignore":
        if labels.ignore_label is None:
            raise SegflowError(
                "unknown_labels=ignore, but dataset.json names no label 'ignore'",
                found=dict(labels.entries),
                fix="Add it to labels in dataset.json: the first number that no other label has.",
            )
        stray = labels.value_of(labels.ignore_label)
    return MendRules(len(description.channels), labels.declared_values, stray, settings.unchanged == "copy")


def _show(title: str, problems: Sequence[Problem], *, whole: bool) -> None:
    rows = [(p.severity, p.case or "", p.message, p.fix or "") for p in problems]
    columns = ("severity", "case", "what", "what to do")
    _terminal.table(title, columns, rows if whole else _folded(rows, (0, 2, 3)))


def _folded(rows: Sequence[tuple[str, ...]], alike: Sequence[int]) -> list[tuple[str, ...]]:
    """One row for many cases with the same problem; `verbose=true` shows all.

    Args:
        rows: The rows; a column is the case.
        alike: Columns that must say the same but for numbers and names of files.
    """
    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    where = 1 if 1 not in alike and 0 in alike else 0
    for row in rows:
        key = tuple(_pattern(row[column], row[where]) for column in alike)
        groups.setdefault(key if row[where] else (*key, str(len(groups))), []).append(row)
    folded = []
    for group in groups.values():
        if len(group) <= LISTED:
            folded.extend(group)
            continue
        names = list(dict.fromkeys(row[where] for row in group))
        first = list(group[0])
        first[where] = f"{_terminal.cases(len(names))}: {some(names)}"
        folded.append(tuple(first))
    return folded


def _pattern(text: str, case: str) -> str:
    """A text without the name of its case and without numbers."""
    return re.sub(r"'[^']*'|[-+\w]*\d[\w.+-]*", "#", text.replace(case, "#") if case else text)
