"""CSV tables of users, with one line for each case."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.storage.regular_files import open_regular

CASE_HEADINGS = ("case", "case_id", "id", "name", "identifier")
"""Headings for the column of case ids. If a table has several of them, the first in this order counts."""
GROUP_HEADINGS = ("group", "patient", "subject", "patient_id", "subject_id")
"""Headings of the column of groups, whose cases stay together in splits."""
LABEL_HEADINGS = ("label", "reference")
"""Headings of the column of label maps."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table.

    Attributes:
        number: Number of its last line in the file, from 1.
        cells: The texts of its cells, without spaces around them.
    """

    number: int
    cells: tuple[str, ...]


def read_table(file: Path, separator: str = ",") -> list[Line]:
    """The lines of a CSV file in UTF-8, with the heading. Lines without text are left out.

    Args:
        file: The file.
        separator: What stands between cells.

    Raises:
        SegflowError: The file is missing or unreadable, or it is not a table.
    """
    try:
        if not file.exists():
            raise SegflowError(f"cannot read {file}: there is no such file")
        with open_regular(file) as content, TextIOWrapper(content, "utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=separator)
            lines = [Line(reader.line_num, tuple(cell.strip() for cell in row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SegflowError(f"cannot read {file}: {error}") from error
    return [line for line in lines if any(line.cells)]


def column_of(headings: Sequence[str], names: Sequence[str]) -> int | None:
    """Index of the column with one of these headings, in any case of letters; None if there is none."""
    known = [heading.lower() for heading in headings]
    return next((known.index(name) for name in names if name in known), None)
