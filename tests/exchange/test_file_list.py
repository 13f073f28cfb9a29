"""A table of files becomes a raw dataset without a copy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.errors import SegflowError
from segflow.exchange.file_list import convert_file_list, read_file_list
from segflow.storage.images import choose_reader
from segflow.storage.raw_dataset import check_dataset, find_training_cases, read_description

GOOD = (
    "case,T1, T2 ,label\n"
    "b,scans/b1.nii.gz,scans/b2.nii.gz,scans/b.nii.gz\n"
    "a,scans/a1.nii.gz,scans/a2.nii.gz,scans/a.nii.gz\n"
)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    (tmp_path / "scans").mkdir()
    generator = np.random.default_rng(0)
    for name in ("a", "b", "a1", "a2", "b1", "b2"):
        values = generator.integers(0, 3 if len(name) == 1 else 100, (3, 4, 5))
        sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.int16)), str(tmp_path / "scans" / f"{name}.nii.gz"))
    return tmp_path


def table(folder: Path, text: str) -> Path:
    file = folder / "list.csv"
    file.write_text(text, encoding="utf-8-sig")  # as spreadsheets save it
    return file


def test_the_files_stay_where_they_are(scans: Path) -> None:
    folder = convert_file_list(table(scans, GOOD), scans / "raw", 9, "Mine")
    description = read_description(folder)
    cases = find_training_cases(folder, description)
    assert folder.name == "Dataset009_Mine"
    assert [file.name for file in folder.iterdir()] == ["dataset.json"]
    assert description.channels == ("T1", "T2")
    assert dict(description.labels.entries) == {"background": 0, "label_1": 1, "label_2": 2}
    assert [case.case_id for case in cases] == ["a", "b"]
    assert cases[1].images == (scans / "scans" / "b1.nii.gz", scans / "scans" / "b2.nii.gz")
    assert check_dataset(folder, description, choose_reader(".nii.gz")) == []


def test_labels_may_be_given(scans: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    folder = convert_file_list(table(scans, GOOD), scans / "raw", 9, "Mine", labels=labels, regions_class_order=[1, 2])
    assert read_description(folder).labels.regions == ((1, 2), (2,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks a column; found nothing"),
        ("case,label\n", "lacks a column; found case, label"),
        ("case,CT,label\n", "lists no case"),
        ("case,CT,label\na,gone.nii.gz,scans/a.nii.gz\n", r"line 2, case 'a': there is no file .*gone\.nii\.gz"),
        ("case,CT,label\na,,scans/a.nii.gz\n", "line 2, case 'a': no file in column CT"),
        ("case,CT,label\na,scans/a1.nii.gz\n", "no file in column label"),
        ("case,CT,label\n,scans/a1.nii.gz,scans/a.nii.gz\n", "line 2: '' cannot be the name of a case: it is empty"),
        (
            GOOD + "a,scans/a1.nii.gz,scans/a2.nii.gz,scans/a.nii.gz\n",
            "line 4: 'a' cannot be the name of a case: it is there twice",
        ),
        (
            "case,CT,label\na,list.csv,scans/a.nii.gz\n",
            r"list\.csv: no reader for files of this ending; found '\.csv'",
        ),
    ],
)
def test_a_broken_table_is_named_and_nothing_is_made(scans: Path, text: str, message: str) -> None:
    with pytest.raises(SegflowError, match=message):
        convert_file_list(table(scans, text), scans / "raw", 9, "Mine")
    assert not list(scans.glob("raw/*"))


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match=r"cannot read .*list\.csv"):
        convert_file_list(tmp_path / "list.csv", tmp_path, 1, "Mine")


def test_all_label_maps_that_cannot_be_read_are_named_by_their_case(scans: Path) -> None:
    for name in ("a", "b"):
        (scans / "scans" / f"{name}.nii.gz").write_text("damaged")
    with pytest.raises(SegflowError, match=r"(?s)case 'a': .*case 'b': "):
        convert_file_list(table(scans, GOOD), scans / "raw", 9, "Mine")


ROW = {"case": "a", "CT": "scans/a1.nii.gz", "label": "scans/a.nii.gz"}


@pytest.mark.parametrize(
    ("content", "channels"),
    [
        ([ROW], None),
        ({"cases": [ROW]}, None),
        ({"training": [{"case": "a", "image": "scans/a1.nii.gz", "label": "scans/a.nii.gz"}]}, ["CT"]),
        (
            {
                "modality": {"0": "CT"},
                "training": [{"id": "a", "image": ["scans/a1.nii.gz"], "label": "scans/a.nii.gz"}],
            },
            None,
        ),
    ],
)
def test_a_json_lists_files_too(scans: Path, content: object, channels: list[str] | None) -> None:
    file = scans / "list.json"
    file.write_text(json.dumps(content))
    folder = convert_file_list(file, scans / "raw", 9, "Mine", channels=channels)
    description = read_description(folder)
    (case,) = find_training_cases(folder, description)
    assert description.channels == ("CT",)
    assert (case.case_id, case.images[0].name) == ("a", "a1.nii.gz")


def test_a_case_without_a_name_has_that_of_its_image(scans: Path) -> None:
    (scans / "list.json").write_text(json.dumps([{"image": "scans/a1.nii.gz", "label": "scans/a.nii.gz"}]))
    assert read_file_list(scans / "list.json", ["CT"]).cases[0].case_id == "a1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (7, "is no list of cases; found 7"),
        ({"training": ["a"]}, "is no list of cases"),
        ([], "lacks a column; found nothing"),
        (
            [{"image": "scans/a1.nii.gz", "label": "scans/a.nii.gz"}],
            r"case 1: .* no names of channels.*channels=\[CT\]",
        ),
        ([{**ROW, "CT": {"x": 1}}], "case 1: not a path; found CT"),
        ([ROW, {**ROW, "case": "b", "label": "gone.nii.gz"}], r"line 2, case 'b': there is no file .*gone\.nii\.gz"),
    ],
)
def test_a_broken_json_is_named(scans: Path, content: object, message: str) -> None:
    (scans / "list.json").write_text(json.dumps(content))
    with pytest.raises(SegflowError, match=message):
        read_file_list(scans / "list.json")


def test_a_column_of_patients_keeps_their_cases_together(scans: Path) -> None:
    text = (
        GOOD.replace("label", "label,patient")
        .replace("b.nii.gz\n", "b.nii.gz,P1\n")
        .replace("a.nii.gz\n", "a.nii.gz,\n")
    )
    description = read_description(convert_file_list(table(scans, text), scans / "raw", 9, "Mine"))
    assert description.channels == ("T1", "T2")
    assert description.groups == {"b": "P1"}
