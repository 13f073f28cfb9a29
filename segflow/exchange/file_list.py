"""A raw dataset from a CSV list of files, which are not copied or renamed (recipe 1.3, key ``dataset``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from segflow.core.case import CaseFiles
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.names import shortened, why_unsafe
from segflow.exchange.raw_layout import refuse_taken
from segflow.exchange.renumber import renumbered, write_renumbered
from segflow.execution.progress import Progress, ProgressEvent, silent
from segflow.storage.case_files import listed_file
from segflow.storage.case_names import IMAGE_ENDINGS
from segflow.storage.images import reader_of
from segflow.storage.json_files import write_json
from segflow.storage.label_values import label_values
from segflow.storage.tables import CASE_HEADINGS, LABEL_HEADINGS, Line, column_of, read_table
from segflow.storage.whole_folder import folder_written_whole

STAGE = "convert"
HEADING_HELP = "case,CT,label  (one column per channel, headed by the channel's name)"


@dataclass(frozen=True, slots=True)
class _Row:
    case_id: str
    images: tuple[Path, ...]
    label: Path


def convert_file_list(
    table: Path,
    raw_root: Path,
    dataset_id: int,
    name: str,
    *,
    labels: Mapping[str, Any] | None = None,
    regions_class_order: Sequence[int] | None = None,
    progress: Progress = silent,
) -> Path:
    """Make a raw dataset from files that stay where they are.

    Args:
        table: CSV with the columns ``case``, ``label``, and one for each channel. The heading of a channel is its name,
            which chooses its normalisation (``CT``, ``T1`` …). Relative paths start at the table's folder.
        raw_root: Folder of the raw datasets.
        dataset_id: Number of the new dataset.
        name: Name of the new dataset.
        labels: As in dataset.json. None reads all label maps and names their values ``label_1`` ….
        regions_class_order: As in dataset.json, for labels with regions.
        progress: Called after each label map that is read.

    Returns:
        The new folder, with a dataset.json that lists the files. It also holds renumbered copies of the label maps if
        their values are not 0, 1, 2, ….

    Raises:
        SegflowError: The table has no such columns, a file is missing, endings are mixed, or the number is taken.
    """
    channels, rows = _read_table(table)
    target = refuse_taken(raw_root, f"Dataset{dataset_id:03d}_{name}")
    ending = _common_ending(table, rows)
    found = labels if labels is not None else _found_labels(rows, ending, progress)
    named, new = renumbered(found, regions_class_order)
    content: dict[str, Any] = {
        "channel_names": {str(number): channel for number, channel in enumerate(channels)},
        **named,
        "numTraining": len(rows),
        "file_ending": ending,
        "dataset": {
            row.case_id: {"images": [str(file) for file in row.images], "label": str(row.label)} for row in rows
        },
        "converted_by": "segflow",
    }
    with folder_written_whole(target) as partial:
        if any(old != value for old, value in new.items()):
            cases = [CaseFiles(row.case_id, row.images, row.label) for row in rows]
            reader = reader_of((row.images[0] for row in rows), ending)
            content["dataset"] = write_renumbered(cases, new, reader, partial, ending, progress)
        write_json(partial / "dataset.json", content)
    return target


def _read_table(table: Path) -> tuple[list[str], list[_Row]]:
    header, *lines = read_table(table) or [Line(1, ())]
    headings = header.cells
    case, label = column_of(headings, CASE_HEADINGS), column_of(headings, LABEL_HEADINGS)
    channels = [heading for column, heading in enumerate(headings) if column not in (case, label)]
    if case is None or label is None or not channels or len(set(headings)) != len(headings):
        raise SegflowError(f"{table} lacks a column", found=", ".join(headings) or "nothing", expected=HEADING_HELP)
    if not lines:
        raise SegflowError(f"{table} lists no case", expected="one line per case")
    columns = _Columns(headings, headings[case], tuple(channels), headings[label])
    rows: list[_Row] = []
    problems: list[str] = []
    seen: set[str] = set()
    for line in lines:
        row, wrong = columns.read(line, table.resolve().parent, seen)
        problems += wrong
        rows += [] if row is None else [row]
    if problems:
        raise CaseErrors(f"{table} cannot be used", problems)
    return channels, sorted(rows, key=lambda row: row.case_id)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Headings of a table: all, that of the cases, those of the channels, and that of the label maps."""

    headings: Sequence[str]
    case: str
    channels: tuple[str, ...]
    label: str

    def read(self, line: Line, base: Path, seen: set[str]) -> tuple[_Row | None, list[str]]:
        """The row of a line, or None if it cannot be used; and its problems. Adds the case to those seen."""
        texts = dict(zip_longest(self.headings, line.cells[: len(self.headings)], fillvalue=""))
        case_id, number, problems = texts[self.case], line.number, []
        cells = {heading: texts[heading] for heading in (*self.channels, self.label)}
        empty = [heading for heading, cell in cells.items() if not cell]
        if reason := "is there twice" if case_id in seen else why_unsafe(case_id):
            problems.append(f"line {number}: {shortened(case_id)} cannot be the name of a case: it {reason}")
        elif empty:
            problems.append(f"line {number}, case '{case_id}': no file in column {', '.join(empty)}")
        seen.add(case_id)
        files: dict[str, Path] = {}
        for heading, cell in cells.items():
            try:
                files |= {heading: listed_file(base, cell)} if cell else {}
            except SegflowError as error:
                problems.append(f"line {number}, case '{case_id}': {error}")
        if len(files) < len(cells):
            return None, problems
        return _Row(case_id, tuple(files[channel] for channel in self.channels), files[self.label]), problems


def _common_ending(table: Path, rows: Sequence[_Row]) -> str:
    """The common ending of all label maps and images, with which predictions are written."""
    endings = {_ending(file) for row in rows for file in (*row.images, row.label)}
    if len(endings) > 1:
        raise SegflowError(
            f"{table}: mixed file endings", found=" ".join(sorted(endings)), expected="one for all files"
        )
    return endings.pop()


def _ending(file: Path) -> str:
    known = next((ending for ending in IMAGE_ENDINGS if file.name.lower().endswith(ending)), None)
    return file.name[-len(known) :] if known else file.suffix


def _found_labels(rows: Sequence[_Row], ending: str, progress: Progress) -> dict[str, int]:
    reader = reader_of((row.images[0] for row in rows), ending)
    values: set[int] = set()
    problems = []
    for done, row in enumerate(rows, start=1):
        try:
            values.update(label_values(reader.read_label(row.label)[0]))
        except SegflowError as error:
            problems.append(str(error.of_case(row.case_id)))
        progress(ProgressEvent(STAGE, row.case_id, done, len(rows)))
    if problems:
        raise CaseErrors("label maps cannot be used", problems)
    return {"background": 0, **{f"label_{value}": value for value in sorted(values - {0})}}
