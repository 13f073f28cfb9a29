"""Patterns of paths become a dataset that lists the files where they lie."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.errors import SegflowError
from segflow.exchange.file_patterns import find_by_patterns
from segflow.exchange.listed_cases import NewDataset, write_listed
from segflow.storage.images import choose_reader
from segflow.storage.raw_dataset import check_dataset, find_training_cases, read_description


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def cases(folder: Path, images: dict[str, str], label: str, **options: bool) -> dict[str, list[str]]:
    patterns = {channel: f"{folder}/{pattern}" for channel, pattern in images.items()}
    listed = find_by_patterns(patterns, f"{folder}/{label}", **options)
    return {
        case.case_id: [str(file.relative_to(folder)) for file in (*case.images, case.label)] for case in listed.cases
    }


def test_a_file_belongs_to_the_longest_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a_seg.nii.gz", "b_1.nii.gz", "b_1_seg.nii.gz", ".hidden.nii.gz", "a_seg.txt")
    assert cases(tmp_path, {"CT": "{case}.nii.gz"}, "{case}_seg.nii.gz") == {
        "a": ["a.nii.gz", "a_seg.nii.gz"],
        "b_1": ["b_1.nii.gz", "b_1_seg.nii.gz"],
    }


def test_channels_folders_and_groups(tmp_path: Path) -> None:
    for patient, visit in (("P1", "v1"), ("P1", "v2"), ("P2", "v1")):
        touch(tmp_path / f"x[1]/{patient}/{visit}", "T1_3.nii", "flair.nii", f"seg/{visit}.nii")
    images = {"T1": "x[1]/{group}/{case}/T1_*.nii", "FLAIR": "**/{group}/{case}/flair.nii"}
    patterns = {channel: f"{tmp_path}/{pattern}" for channel, pattern in images.items()}
    listed = find_by_patterns(patterns, f"{tmp_path}/x[1]/{{group}}/{{case}}/seg/{{case}}.nii")
    assert listed.files == ("T1", "FLAIR")
    assert [(case.case_id, case.group) for case in listed.cases] == [("P1_v1", "P1"), ("P1_v2", "P1"), ("P2_v1", "P2")]
    assert listed.cases[2].label == tmp_path / "x[1]/P2/v1/seg/v1.nii"


@pytest.mark.parametrize(
    ("images", "label", "message"),
    [
        ("*.nii", "{case}_seg.nii", "where the name of the case stands"),
        ("{name}.nii", "{case}_seg.nii", r"unknown field; found \{name\}"),
        ("{case.nii", "{case}_seg.nii", "unknown field"),
        ("{case}_ct.nii", "{case}_seg.nii", r"no file matches the pattern of CT.*_ct\.nii; found in .*: a\.nii, a_seg"),
        ("none/{case}.nii", "{case}_seg.nii", r"no file matches .*; found in .*: a\.nii"),
        ("{case}.nii", "{case}.nii", "two patterns match"),
        ("{case}.nii", "{case}_seg.nii", r"case 'b': no file for label; expected .*/b_seg\.nii.*incomplete=skip"),
        ("*{case}_seg.nii", "**/{case}_seg.nii", "two patterns match"),
    ],
)
def test_a_pattern_that_fits_nothing_says_what_there_is(images: str, label: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "a_seg.nii", "b.nii")
    with pytest.raises(SegflowError, match=f"(?s){message}"):
        cases(tmp_path, {"CT": images}, label)


def test_several_files_for_one_case_are_refused_and_incomplete_ones_are_left_out_when_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "1/a.nii", "2/b.nii", "a_seg.nii")
    with caplog.at_level(logging.WARNING):
        assert list(cases(tmp_path, {"CT": "*/{case}.nii"}, "{case}_seg.nii", skip_incomplete=True)) == ["a"]
    assert "1 case left out, for lack of files: b" in caplog.text
    touch(tmp_path, "2/a.nii")
    with pytest.raises(SegflowError, match=r"case 'a': several files for CT: .*1/a\.nii, .*2/a\.nii"):
        cases(tmp_path, {"CT": "*/{case}.nii"}, "{case}_seg.nii", skip_incomplete=True)


def test_the_dataset_lists_files_of_different_endings(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for case in "ab":
        values = generator.integers(0, 100, (3, 4, 5)).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"{case}_t1.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"{case}_t2.nrrd"))
        sitk.WriteImage(sitk.GetImageFromArray(values % 3), str(tmp_path / f"{case}_seg.mha"))
    images = {"T1": f"{tmp_path}/{{case}}_t1.nii.gz", "T2": f"{tmp_path}/{{case}}_t2.nrrd"}
    (tmp_path / "b_seg.mha").rename(tmp_path / "b_seg.MHA")
    listed = find_by_patterns(images, f"{tmp_path}/{{case}}_seg.*")
    folder = write_listed(listed, NewDataset(tmp_path / "raw", 7, "Mixed"))
    description = read_description(folder)
    assert [file.name for file in folder.iterdir()] == ["dataset.json"]
    assert (description.file_ending, description.label_ending) == (".nii.gz", ".mha")
    assert len(find_training_cases(folder, description)) == 2
    assert check_dataset(folder, description, choose_reader(".nii.gz")) == []


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [(".png", ".nii.gz", "cannot belong to images of .png"), (".nii.gz", ".png", "cannot belong to images of .nii.gz")],
)
def test_label_maps_that_no_reader_of_the_images_knows_are_refused(
    image: str, label: str, message: str, tmp_path: Path
) -> None:
    flat = np.zeros((4, 5), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(tmp_path / f"a_ct{image}"))
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(tmp_path / f"a_seg{label}"))
    listed = find_by_patterns({"CT": f"{tmp_path}/{{case}}_ct{image}"}, f"{tmp_path}/{{case}}_seg{label}")
    with pytest.raises(SegflowError, match=message):
        write_listed(listed, NewDataset(tmp_path / "raw", 7, "Mixed"))
    assert not list(tmp_path.glob("raw/*"))
