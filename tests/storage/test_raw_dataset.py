"""Finding datasets, their cases and the images to predict, and what is said when names do not fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from found_images import find_images

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import CaseErrors, SegflowError
from segflow.storage.raw_dataset import find_training_cases, read_description, resolve_dataset


def describe(**changes: Any) -> DatasetDescription:
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "a": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        **changes,
    }
    return DatasetDescription.from_json("Dataset001_Toy", content)


def touch(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def layout(folder: Path, images: Sequence[str], labels: Sequence[str]) -> Path:
    touch(folder / "imagesTr", images)
    touch(folder / "labelsTr", labels)
    return folder


TWO_CASES = ["b_0001.nii.gz", "a_0000.nii.gz", "b_0000.nii.gz", "a_0001.nii.gz"]


def test_cases_are_sorted_and_channels_are_in_order(tmp_path: Path) -> None:
    layout(tmp_path, TWO_CASES, ["a.nii.gz", "b.nii.gz"])
    cases = find_training_cases(tmp_path, describe())
    assert [case.case_id for case in cases] == ["a", "b"]
    assert [file.name for file in cases[1].images] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert cases[0].label == tmp_path / "labelsTr" / "a.nii.gz"


def test_only_the_last_four_digits_are_the_channel(tmp_path: Path) -> None:
    touch(tmp_path, ["case_0000_0000.nii.gz", "case_12345_0000.nii.gz", "x.y(1)_0000.nii.gz"])
    found = find_images(tmp_path, ".nii.gz", 1)
    assert [case.case_id for case in found] == ["case_0000", "case_12345", "x.y(1)"]


def test_hidden_files_and_files_that_are_no_images_lie_about_unnoticed(tmp_path: Path) -> None:
    extra = ["._a_0000.nii.gz", ".writing-1-a_0000.nii.gz", "README.md", "a.json"]
    layout(tmp_path, [*TWO_CASES, *extra], ["a.nii.gz", "b.nii.gz", ".DS_Store"])
    assert len(find_training_cases(tmp_path, describe())) == 2


def test_one_file_may_hold_all_channels(tmp_path: Path) -> None:
    touch(tmp_path, ["a_0000.png", "b_0000.png"])
    assert [len(case.images) for case in find_images(tmp_path, ".png", 3)] == [1, 1]


def test_a_case_without_label_is_named_with_the_nearest_file(tmp_path: Path) -> None:
    layout(tmp_path, TWO_CASES, ["a.nii.gz", "b_seg.nii.gz"])
    with pytest.raises(SegflowError, match=r"case 'b': the case has no label; .*labelsTr/b_seg\.nii\.gz"):
        find_training_cases(tmp_path, describe())


def test_everything_wrong_is_listed_together(tmp_path: Path) -> None:
    layout(tmp_path, ["a_0000.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz", "c.nii.gz"], ["a.nii.gz"])
    with pytest.raises(CaseErrors) as caught:
        find_training_cases(tmp_path, describe())
    assert len(caught.value.problems) == 3
    assert [text.split("'")[1] for text in caught.value.problems] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        ([], 1, r"holds no image; it is empty; expected names like case_0000\.nii\.gz"),
        (["notes.txt"], 1, r"holds no image; found notes\.txt"),
        (["a.nii.gz"], 1, r"case 'a': .*a\.nii\.gz has no channel number; expected a_0000\.nii\.gz"),
        (["a_000.nii.gz"], 1, r"has no channel number"),
        (["a_0000.nii"], 1, r"case 'a': mixed file endings: .*a_0000\.nii ends in \.nii; expected \.nii\.gz"),
        (["a_0000.nii.gz", "b_0000.nrrd"], 1, r"case 'b': mixed file endings"),
        (["a_0000.nii.gz", "b_0001.nii.gz"], 1, r"case 'b': a channel is missing: b_0000\.nii\.gz"),
        (
            ["a_0001.nii.gz"],
            1,
            r"the channels of 1 case are counted from 1; found a_0001\.nii\.gz\. Channels count from 0",
        ),
        (
            ["a_0001.nii.gz", "a_0002.nii.gz"],
            2,
            r"channels of 1 case are counted from 1; found a_0001\.nii\.gz, a_0002",
        ),
        (["a_2022.nii.gz", "a_2023.nii.gz"], 1, r"case 'a': the four digits at the end are no channel; found a_2022"),
        (["a_2022.nii.gz", "b_0000.nii.gz"], 2, r"needs the channel's number too: scan_2022_0000"),
        (["a_0000.nii.gz", "a_0002.nii.gz"], 3, r"case 'a': a channel is missing: a_0001\.nii\.gz"),
        (["a_0000.nii.gz", "a_0001.nii.gz"], 1, r"case 'a': a channel is too many: a_0001\.nii\.gz"),
        (["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz"], 2, r"case 'b': a channel is missing: b_0001"),
    ],
)
def test_misnamed_images_are_named(tmp_path: Path, names: list[str], channels: int, message: str) -> None:
    touch(tmp_path, names)
    with pytest.raises(SegflowError, match=message):
        find_images(tmp_path, ".nii.gz", channels)


def test_a_missing_channel_names_the_nearest_existing_file(tmp_path: Path) -> None:
    touch(
        tmp_path, ["patient_1_0000.nii.gz", "patient_1_0001.nii.gz", "patient_2_0000.nii.gz", "patient_2-0001.nii.gz"]
    )
    with pytest.raises(SegflowError, match=r"nearest existing file is patient_2-0001\.nii\.gz"):
        find_images(tmp_path, ".nii.gz", 2)


@pytest.mark.parametrize("missing", ["imagesTr", "labelsTr"])
def test_a_missing_folder_is_named(tmp_path: Path, missing: str) -> None:
    layout(tmp_path, TWO_CASES, ["a.nii.gz", "b.nii.gz"])
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(SegflowError, match=rf"no folder .*{missing}"):
        find_training_cases(tmp_path, describe())


def test_discovery_lists_each_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cost grows with the number of files, not with its square."""
    import segflow.storage.case_files as module

    layout(tmp_path, TWO_CASES, ["a.nii.gz", "b.nii.gz"])
    listed = []
    scan = module.os.scandir
    monkeypatch.setattr(module.os, "scandir", lambda folder: (listed.append(Path(folder).name), scan(folder))[1])
    find_training_cases(tmp_path, describe())
    assert listed == ["imagesTr", "labelsTr"]


def test_many_problems_do_not_search_through_all_names_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import segflow.storage.case_names as module

    searches = []
    monkeypatch.setattr(module.difflib, "get_close_matches", lambda *given, **options: searches.append(given) or [])
    layout(tmp_path, [f"case_{number}_0000.nii.gz" for number in range(100)], [])
    with pytest.raises(CaseErrors) as caught:
        find_training_cases(tmp_path, describe(channel_names={"0": "CT"}))
    assert len(caught.value.problems) == 100
    assert len(searches) < 50


# --- the file list in dataset.json --------------------------------------------------------------------------------


def test_dataset_json_may_list_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    touch(elsewhere, ["t1.nii.gz", "label.nii.gz"])
    touch(tmp_path / "raw" / "own", ["t2.nii.gz"])
    monkeypatch.setenv("SCANS", str(elsewhere))
    listing = {"x": {"images": ["$SCANS/t1.nii.gz", "own/t2.nii.gz"], "label": "${SCANS}/label.nii.gz"}}
    (case,) = find_training_cases(tmp_path / "raw", describe(dataset=listing))
    assert case.case_id == "x"
    assert case.images == (elsewhere / "t1.nii.gz", tmp_path / "raw" / "own" / "t2.nii.gz")
    assert case.label == elsewhere / "label.nii.gz"


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ({}, "must map case ids to files"),
        ({"x": {"images": [], "label": "l"}}, "case 'x': dataset.json lists no images"),
        ({"x": {"images": "one.nii.gz", "label": "here"}}, "lists no images"),
        ({"x": {"images": ["here"]}}, "case 'x': dataset.json lists no label"),
        ({"x": {"images": ["gone.nii.gz"], "label": "here"}}, r"case 'x': there is no file .*gone\.nii\.gz"),
    ],
)
def test_a_broken_file_list_is_named(tmp_path: Path, listing: Any, message: str) -> None:
    touch(tmp_path, ["here"])
    with pytest.raises(SegflowError, match=message):
        find_training_cases(tmp_path, describe(dataset=listing))


# --- datasets by name ---------------------------------------------------------------------------------------------


@pytest.fixture
def raw_root(tmp_path: Path) -> Path:
    for name in ("Dataset004_Hippocampus", "Dataset040_KiTS", "Dataset027_ACDC", "Dataset027_Copy"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.mark.parametrize("given", ["Dataset004_Hippocampus", "Dataset004", "4", "004", 4])
def test_a_dataset_is_found_by_name_and_number(raw_root: Path, given: str | int) -> None:
    assert resolve_dataset(given, raw_root) == raw_root / "Dataset004_Hippocampus"


def test_a_dataset_is_found_by_path(raw_root: Path, tmp_path: Path) -> None:
    assert resolve_dataset(str(raw_root / "Dataset040_KiTS"), tmp_path / "nowhere") == raw_root / "Dataset040_KiTS"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("Dataset004_Hipocampus", "Did you mean 'Dataset004_Hippocampus'"),
        ("5", r"no dataset Dataset005_…"),
        ("27", r"several datasets .* number 27; found Dataset027_ACDC, Dataset027_Copy"),
    ],
)
def test_an_unknown_dataset_names_the_nearest(raw_root: Path, given: str, message: str) -> None:
    with pytest.raises(SegflowError, match=message):
        resolve_dataset(given, raw_root)


def test_no_raw_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match=r"found no dataset at all.*paths\.raw"):
        resolve_dataset("4", tmp_path / "nowhere")


def test_the_description_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset001_Toy"
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(describe().to_json()))
    assert read_description(folder) == describe()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no .*dataset\.json"),
        ("{", "not valid JSON"),
        ("[]", "must be an object; found list"),
        ('{"labels": {"background": 0}}', "lacks 'channel_names', 'numTraining', 'file_ending'"),
    ],
)
def test_an_unusable_description_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(SegflowError, match=message) as caught:
        read_description(tmp_path)
    assert str(tmp_path / "dataset.json") in str(caught.value)


def test_the_real_datasets_are_found(test_data: Path) -> None:
    folder = test_data / "Dataset143_ProstateX3ch"
    cases = find_training_cases(folder, read_description(folder))
    assert [len(case.images) for case in cases] == [3, 3]
    hippocampus = test_data / "Dataset004_Hippocampus"
    assert len(find_training_cases(hippocampus, read_description(hippocampus))) == 200
