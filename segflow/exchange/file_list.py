"""Cases from a table of files: CSV, or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.names import is_number, shortened, why_unsafe
from segflow.exchange.listed_cases import CaseList, ListedCase, NewDataset, write_listed
from segflow.execution.progress import Progress, silent
from segflow.storage.case_files import listed_file
from segflow.storage.case_names import image_ending
from segflow.storage.json_files import read_json
from segflow.storage.tables import CASE_HEADINGS, GROUP_HEADINGS, LABEL_HEADINGS, Line, column_of, read_table

HEADING_HELP = "case,CT,label  (one column per channel, headed by the channel's name)"
JSON_HELP = '[{"case": "a", "CT": "a_ct.nii.gz", "label": "a_seg.nii.gz"}], or {"training": [{"image": …, "label": …}]}'
IMAGE_KEYS = ("image", "images")


def convert_file_list(
    table: Path,
    raw_root: Path,
    dataset_id: int,
    name: str,
    *,
    labels: Mapping[str, Any] | None = None,
    regions_class_order: Sequence[int] | None = None,
    channels: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Path:
    """Make a raw dataset from files that stay where they are.

    Args:
        table: A list of files; see `read_file_list`.
        raw_root: Folder of the raw datasets.
        dataset_id: Number of the new dataset.
        name: Name of the new dataset.
        labels, regions_class_order: See `NewDataset`.
        channels: See `read_file_list`.
        progress: Called after each label map that is read.

    Returns:
        The new folder; see `write_listed`.

    Raises:
        SegflowError: The list cannot be used, a file is missing, or the number is taken.
    """
    new = NewDataset(raw_root, dataset_id, name, labels, regions_class_order)
    return write_listed(read_file_list(table, channels), new, progress)


def read_file_list(table: Path, channels: Sequence[str] | None = None) -> CaseList:
    """The cases of a table of files. Relative paths start at the table's folder.

    Args:
        table: CSV with the columns ``case``, ``label``, one for each channel, and perhaps ``group``; the heading of a
            channel is its name, which chooses its normalisation (``CT``, ``T1`` …). Or JSON: a list of objects with
            the same keys; or an object whose ``training`` lists objects with ``image`` (one file or a list) and
            ``label``, as MONAI and the decathlon write it.
        channels: Names of the channels: of files that hold several, or of a JSON whose cases have ``image`` and that
            does not name them itself. None takes the headings, or the JSON's names.

    Raises:
        SegflowError: Columns or files are missing, or a case is there twice. All problems are listed together.
    """
    if table.suffix.lower() == ".json":
        headings, lines, channels = _json_lines(table, channels)
    else:
        header, *lines = read_table(table) or [Line(1, ())]
        headings = header.cells
    case, label, group = (column_of(headings, names) for names in (CASE_HEADINGS, LABEL_HEADINGS, GROUP_HEADINGS))
    names = [heading for column, heading in enumerate(headings) if column not in (case, label, group)]
    if case is None or label is None or not names or len(set(headings)) != len(headings):
        expected = JSON_HELP if table.suffix.lower() == ".json" else HEADING_HELP
        raise SegflowError(f"{table} lacks a column", found=", ".join(headings) or "nothing", expected=expected)
    if not lines:
        raise SegflowError(f"{table} lists no case", expected="one line per case")
    columns = _Columns(
        headings, headings[case], tuple(names), headings[label], None if group is None else headings[group]
    )
    cases: list[ListedCase] = []
    problems: list[str] = []
    seen: set[str] = set()
    for line in lines:
        read, wrong = columns.read(line, table.resolve().parent, seen)
        problems += wrong
        cases += [] if read is None else [read]
    if problems:
        raise CaseErrors(f"{table} cannot be used", problems)
    return CaseList(str(table), tuple(names), tuple(sorted(cases, key=lambda one: one.case_id)), tuple(channels or ()))


@dataclass(frozen=True, slots=True)
class _Columns:
    """Headings of a table: all, that of the cases, those of the channels, of the label maps, and of the groups."""

    headings: Sequence[str]
    case: str
    channels: tuple[str, ...]
    label: str
    group: str | None

    def read(self, line: Line, base: Path, seen: set[str]) -> tuple[ListedCase | None, list[str]]:
        """The case of a line, or None if it cannot be used; and its problems. Adds the case to those seen."""
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
        group = texts[self.group] if self.group else None
        images = tuple(files[channel] for channel in self.channels)
        return ListedCase(case_id, images, files[self.label], group or None), problems


def _json_lines(file: Path, channels: Sequence[str] | None) -> tuple[tuple[str, ...], list[Line], Sequence[str] | None]:
    """The cases of a JSON list as lines of a table, numbered from 1, with the headings; and the channels' names."""
    content = read_json(file)
    described = content if isinstance(content, Mapping) else {}
    entries = described.get("training", described.get("cases")) if described else content
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise SegflowError(f"{file} is no list of cases", found=shortened(content), expected=JSON_HELP)
    names = list(channels or _channel_names(described))
    rows = [_json_row(file, number, entry, names) for number, entry in enumerate(entries, start=1)]
    headings = tuple(dict.fromkeys(heading for row in rows for heading in row))
    lines = [Line(number, tuple(row.get(key, "") for key in headings)) for number, row in enumerate(rows, start=1)]
    return headings, lines, names or None


def _json_row(file: Path, number: int, entry: Mapping[str, Any], channels: Sequence[str]) -> dict[str, str]:
    """Heading → text of one case. Its ``image`` becomes one column for each channel."""
    row: dict[str, Any] = {str(key): value for key, value in entry.items()}
    given = next((row.pop(key) for key in IMAGE_KEYS if key in row), None)
    if given is not None:
        files = given if isinstance(given, list) else [given]
        if len(files) != len(channels) and (len(files) > 1 or not channels):
            raise SegflowError(
                f"{file}, case {number}: its images have no names of channels",
                found=f"{len(files)} images, channels {', '.join(channels) or 'without names'}",
                expected="one name for each image",
                fix="Name them in order: channels=[CT]",
            )
        row |= dict(zip(channels, files, strict=True)) if len(files) == len(channels) else {IMAGE_KEYS[0]: files[0]}
        if column_of([*row], CASE_HEADINGS) is None and isinstance(files[0], str):
            name = Path(files[0]).name
            row = {"case": name.removesuffix(image_ending(name) or ""), **row}
    texts = {key: value if isinstance(value, str) else str(value) for key, value in row.items() if _is_plain(value)}
    if wrong := sorted(set(row) - set(texts)):
        raise SegflowError(f"{file}, case {number}: not a path", found=", ".join(wrong), expected=JSON_HELP)
    return texts


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _channel_names(content: Mapping[str, Any]) -> list[str]:
    given = content.get("channel_names", content.get("modality"))
    if isinstance(given, Mapping) and all(is_number(str(key)) for key in given):
        return [str(given[key]) for key in sorted(given, key=lambda key: int(str(key)))]
    return [str(name) for name in given] if isinstance(given, list) else []
