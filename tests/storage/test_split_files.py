"""Splits and groups come from the files that users have."""

from __future__ import annotations

from pathlib import Path

import pytest

from segflow.core.errors import SegflowError
from segflow.core.split_cases import make_splits
from segflow.core.split_settings import SplitSettings
from segflow.storage.split_files import build_splits, read_splits, values_of_cases, write_splits

CASES = [f"case_{i}" for i in range(10)]


def test_splits_survive_the_file(tmp_path: Path) -> None:
    splits = make_splits(CASES, SplitSettings())
    write_splits(tmp_path / "splits_final.json", splits)
    assert read_splits(tmp_path / "splits_final.json") == splits


def test_a_table_of_folds_says_who_validates_where(tmp_path: Path) -> None:
    file = tmp_path / "folds.csv"
    file.write_text("case_id,fold\n" + "".join(f"{case},{i % 3}\n" for i, case in enumerate(CASES)))
    splits = build_splits(CASES, SplitSettings(file=str(file)))
    assert [split.val for split in splits] == [tuple(CASES[k::3]) for k in range(3)]


@pytest.mark.parametrize("header", ["", "case,patient\n", "\ufeffID,group\n"])
def test_a_table_of_groups_keeps_them_together(tmp_path: Path, header: str) -> None:
    file = tmp_path / "groups.csv"
    file.write_text(header + "".join(f"{case}, p{i // 2}\n" for i, case in enumerate(CASES)) + "\nother,p9\n", "utf-8")
    splits = build_splits(CASES, SplitSettings(group_by=str(file)))
    for split in splits:
        assert len(split.val) == 2
        assert int(split.val[0][-1]) // 2 == int(split.val[1][-1]) // 2


def test_a_table_must_be_whole(tmp_path: Path) -> None:
    file = tmp_path / "groups.csv"
    with pytest.raises(SegflowError, match="there is no"):
        values_of_cases(CASES, str(file))
    file.write_text("case_0,p0\n")
    with pytest.raises(SegflowError, match=r"lacks 9 cases.*case_1"):
        values_of_cases(CASES, str(file))
    file.write_text("case_0,p0\ncase_0,p1\n")
    with pytest.raises(SegflowError, match=r"case 'case_0'.*two values"):
        values_of_cases(CASES, str(file))
    file.write_text("case_0\n")
    with pytest.raises(SegflowError, match="a case id and a value"):
        values_of_cases(CASES, str(file))
    file.write_text("\n")
    with pytest.raises(SegflowError, match="empty"):
        values_of_cases(CASES, str(file))


def test_a_file_that_leaks_a_group_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    write_splits(file, make_splits(CASES, SplitSettings()))
    with pytest.raises(SegflowError, match=r"mine\.json, fold 0.*same group"):
        build_splits(CASES, SplitSettings(file=str(file), group_by="^(case)"))


def test_a_column_of_a_table_is_named_by_its_heading(tmp_path: Path) -> None:
    file = tmp_path / "cases.CSV"
    file.write_text("Patient,case,Site\n" + "".join(f"p{i},{case},s{i % 3}\n" for i, case in enumerate(CASES)))
    assert values_of_cases(CASES, f"{file}:site") == {case: f"s{i % 3}" for i, case in enumerate(CASES)}
    splits = build_splits(CASES, SplitSettings(scheme="leave_one_group_out", group_by=f"{file}:Site"))
    assert [split.val for split in splits] == [tuple(CASES[k::3]) for k in range(3)]
    with pytest.raises(SegflowError, match=r"has no column 'sites'; found Patient, case, Site"):
        values_of_cases(CASES, f"{file}:sites")
    file.write_text("volume,site\ncase_0,a\n")
    with pytest.raises(SegflowError, match=r"no column of case ids; found volume, site; expected case or case_id"):
        values_of_cases(CASES, f"{file}:site")
    file.write_text("case,patient,site\ncase_0,p0\n")
    with pytest.raises(SegflowError, match="a case id and a value"):
        values_of_cases(CASES, f"{file}:site")
