"""CSV tables of users, with one line for each case."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import TextIO

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


SEPARATORS = (",", ";", "\t")
"""What may stand between cells. Spreadsheets write semicolons where a comma is the decimal sign."""


def read_table(file: Path, separator: str | None = None) -> list[Line]:
    """The lines of a CSV file, with the heading. Lines without text are left out.

    Args:
        file: The file, in UTF-8, or in UTF-16 with its mark, as spreadsheets write it.
        separator: What stands between cells; None takes that of `SEPARATORS` that the heading has most of, or the one
            that a first line ``sep=;`` names.

    Raises:
        SegflowError: The file is missing or unreadable, or it is not a table.
    """
    try:
        if not file.exists():
            raise SegflowError(f"cannot read {file}: there is no such file")
        with open_regular(file) as content:
            encoding = "utf-16" if content.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
            with TextIOWrapper(content, encoding, newline="") as stream:
                lines = _lines(stream, separator)
    except UnicodeDecodeError as error:
        raise SegflowError(f"cannot read {file}: {error}", fix="Save it as CSV in UTF-8.") from error
    except (OSError, UnicodeError, csv.Error) as error:
        raise SegflowError(f"cannot read {file}: {error}") from error
    return [line for line in lines if any(line.cells)]


def _lines(stream: TextIO, separator: str | None) -> list[Line]:
    first, skipped = stream.readline(), 0
    if separator is None and (named := re.fullmatch(r"sep=([,;\t])\s*", first)):
        separator, first, skipped = named[1], stream.readline(), 1
    while first and not first.strip():
        first, skipped = stream.readline(), skipped + 1
    if separator is None:
        unquoted = re.sub(r'"[^"]*"', "", first)
        separator = max(SEPARATORS, key=unquoted.count)  # the first of them if there is none
    reader = csv.reader(chain([first], stream), delimiter=separator)
    return [Line(reader.line_num + skipped, tuple(cell.strip() for cell in row)) for row in reader]


def column_of(headings: Sequence[str], names: Sequence[str]) -> int | None:
    """Index of the column with one of these headings, in any case of letters; None if there is none."""
    known = [heading.lower() for heading in headings]
    return next((known.index(name) for name in names if name in known), None)
