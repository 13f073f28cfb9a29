"""Which cases a folder, a table or a list of files stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from segflow.core.errors import SegflowError
from segflow.inference.find_cases import find_cases, part_of


def touch(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in names]
    for file in files:
        file.touch()
    return files


def test_channels_of_a_folder_are_grouped_and_sorted(tmp_path: Path) -> None:
    b1, a0, b0 = touch(tmp_path, "b_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz")
    touch(tmp_path, "notes.txt", ".hidden_0000.nii.gz")
    cases = find_cases(tmp_path, ".nii.gz")
    assert [(case.case_id, case.images) for case in cases] == [("a", (a0,)), ("b", (b0, b1))]


def test_a_file_without_channel_number_is_a_case_of_its_own(tmp_path: Path) -> None:
    (file,) = touch(tmp_path, "scan.nii.gz")
    for source in (tmp_path, file, [file], [str(file)]):
        (case,) = find_cases(source, ".nii.gz")
        assert (case.case_id, case.images) == ("scan", (file,))


def test_a_folder_whose_channels_do_not_count_from_0_is_refused_and_all_its_cases_named(tmp_path: Path) -> None:
    touch(tmp_path, "a_0000.nii.gz", "scan_0011.nii.gz", "scan_0012.nii.gz", "b_0001.nii.gz")
    with pytest.raises(SegflowError, match=r"(?s)'b': .*expected b_0000\.nii\.gz.*'scan': .*found scan_0011"):
        find_cases(tmp_path, ".nii.gz")


def test_files_of_another_ending_than_in_training_may_be_listed(tmp_path: Path) -> None:
    files = touch(tmp_path, "a_0000.nrrd", "a_0001.nrrd", "b_0000.mha", "b_0001.mha")
    assert [case.case_id for case in find_cases(files, ".nii.gz")] == ["a", "b"]
    dotted = touch(tmp_path, "p.1 a_0000.nrrd", "p.2.b_0000.MHA", "p.3_0000.nii", "p.4.odd")
    assert [case.case_id for case in find_cases(dotted, ".nii.gz")] == ["p.1 a", "p.2.b", "p.3", "p.4"]


def test_table_names_cases_and_files_relative_to_itself(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("case,t1,t2,label\nx,images/1.nii.gz,images/2.nii.gz,l.nii.gz\ny,/data/3.nii.gz,4.nii.gz,\n\n")
    x, y = find_cases(table, ".nii.gz")
    assert (x.case_id, x.images) == ("x", (tmp_path / "images/1.nii.gz", tmp_path / "images/2.nii.gz"))
    assert (y.case_id, y.images) == ("y", (Path("/data/3.nii.gz"), tmp_path / "4.nii.gz"))


def test_table_without_names_takes_them_from_the_files(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("image\na_0000.nii.gz\nb.nii.gz\n")
    assert [case.case_id for case in find_cases(table, ".nii.gz")] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("case,image\n", "lists no case"),
        ("", "lists no case"),
        ("case,image\na,1.nii.gz\na,2.nii.gz\n", "names of their own"),
        ("case,image\n../../a,1.nii.gz\n", "name of a case cannot be part of a path"),
        ("case,image\na,1.nii.gz,2.nii.gz\n", "line 2 has another number of cells"),
    ],
)
def test_tables_that_cannot_be_understood_say_why(tmp_path: Path, content: str, message: str) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(content)
    with pytest.raises(SegflowError, match=message):
        find_cases(table, ".nii.gz")


def test_nothing_to_predict_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match="an empty folder"):
        find_cases(tmp_path, ".nii.gz")
    touch(tmp_path, "a_0000.nrrd")
    with pytest.raises(SegflowError, match=r"a_0000\.nrrd.*expected names like case_0000\.nii\.gz"):
        find_cases(tmp_path, ".nii.gz")
    with pytest.raises(SegflowError, match="there is no"):
        find_cases(tmp_path / "nowhere", ".nii.gz")
    with pytest.raises(SegflowError, match="no image to predict"):
        find_cases([], ".nii.gz")


def test_two_files_for_one_prediction_are_refused(tmp_path: Path) -> None:
    files = touch(tmp_path / "one", "a_0000.nii.gz") + touch(tmp_path / "two", "a_0000.nii.gz")
    with pytest.raises(SegflowError, match="same channel of one case"):
        find_cases(files, ".nii.gz")


def test_parts_share_the_cases_without_remainder(tmp_path: Path) -> None:
    touch(tmp_path, *(f"c{n}_0000.nii.gz" for n in range(7)))
    cases = find_cases(tmp_path, ".nii.gz")
    parts = [part_of(cases, f"{k}/3") for k in range(3)]
    assert sorted(case.case_id for part in parts for case in part) == [case.case_id for case in cases]
    assert [len(part) for part in parts] == [3, 2, 2]


@pytest.mark.parametrize("part", ["3/3", "1", "a/b", "-1/2", "0/0"])
def test_impossible_parts_are_refused(part: str) -> None:
    with pytest.raises(SegflowError, match="part"):
        part_of((), part)
