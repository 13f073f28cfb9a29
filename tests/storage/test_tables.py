"""One way to head the column of case ids, whatever the table is for."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from segflow.core.errors import SegflowError
from segflow.exchange.file_list import convert_file_list
from segflow.inference.find_cases import find_cases
from segflow.storage.split_files import values_of_cases
from segflow.storage.tables import CASE_HEADINGS, read_table


@pytest.mark.parametrize("heading", [*CASE_HEADINGS, "Case_ID", " Name "])
def test_every_table_takes_the_same_headings(tmp_path: Path, heading: str) -> None:
    file = tmp_path / "cases.csv"
    file.write_text(f"{heading},image,Label\na,1.nii.gz,2.nii.gz\n,,\n\nb,3.nii.gz,4.nii.gz\n", "utf-8")
    assert [(case.case_id, len(case.images)) for case in find_cases(file, [".nii.gz"], 1)] == [("a", 1), ("b", 1)]
    assert values_of_cases(["a", "b"], str(file)) == {"a": "1.nii.gz", "b": "3.nii.gz"}
    with pytest.raises(SegflowError, match=r"line 2, case 'a': there is no file .*1\.nii\.gz.*(?s:.*)line 5, case 'b'"):
        convert_file_list(file, tmp_path / "raw", 1, "Mine")


ROWS = [("case", "CT", "label"), ("a", "x, y.nii", "l.nii"), ("", "", ""), ("b; c", "ü.nii", "m.nii")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, separator: str, named: bool, end: str, encoding: str) -> None:
    file = tmp_path / "cases.csv"
    with file.open("w", encoding=encoding, newline="") as stream:
        stream.write(f"sep={separator}{end}" * named + end)
        csv.writer(stream, delimiter=separator, lineterminator=end).writerows(ROWS)
    lines = read_table(file)
    assert [line.cells for line in lines] == [row for row in ROWS if any(row)]
    assert [line.number for line in lines] == [number + 1 + named for number in (1, 2, 4)]


def test_separators_in_quoted_headings_and_later_lines_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "cases.csv"
    file.write_text('case,"T1; T2; FLAIR",label\na;b;c;d,1,2\n')
    assert [line.cells for line in read_table(file)] == [("case", "T1; T2; FLAIR", "label"), ("a;b;c;d", "1", "2")]
    file.write_text("case\na;b\n")
    assert [line.cells for line in read_table(file)] == [("case",), ("a;b",)]
    file.write_text("\n\n")
    assert read_table(file) == []


@pytest.mark.parametrize("content", [b"case,\xff\n", b'case,"open\n' + b"x" * 200_000])
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "cases.csv"
    file.write_bytes(content)
    with pytest.raises(SegflowError, match=r"cannot read .*cases\.csv: "):
        read_table(file)
    with pytest.raises(SegflowError, match=r"cannot read .*none\.csv: there is no such file"):
        read_table(tmp_path / "none.csv")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cases.csv")
    with pytest.raises(SegflowError, match=r"cases\.csv; found a pipe"):
        read_table(tmp_path / "cases.csv")
