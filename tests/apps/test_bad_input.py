"""Every way in which a raw dataset can be bad ends in one message that names the case, and leaves nothing half made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from apps_commands import start

NAME = "Dataset009_Small"
CASES = [f"case_{k}" for k in range(6)]


def write(array: np.ndarray, file: Path, spacing: tuple[float, float, float] = (1.0, 1.0, 2.0)) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Six small cases in raw layout, all of them good."""
    folder = tmp_path / "data" / "raw" / NAME
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for case in CASES:
        image = generator.normal(100, 20, (8, 16, 16)).astype(np.float32)
        label = np.zeros((8, 16, 16), np.uint8)
        label[2:6, 4:12, 4:12] = 1
        write(image, folder / "imagesTr" / f"{case}_0000.nii.gz")
        write(label, folder / "labelsTr" / f"{case}.nii.gz")
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "thing": 1},
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def image_of(raw: Path) -> Path:
    return raw / "imagesTr" / "case_2_0000.nii.gz"


def label_of(raw: Path) -> Path:
    return raw / "labelsTr" / "case_2.nii.gz"


def changed_description(raw: Path, **changes: object) -> None:
    file = raw / "dataset.json"
    description = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in description.items() if value is not None}))


def nan_in_image(raw: Path) -> None:
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(image_of(raw))))
    array[0, 0, 0] = np.nan
    write(array, image_of(raw))


BAD: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "an image is missing": (lambda raw: image_of(raw).unlink(), ["case_2"]),
    "a label is missing": (lambda raw: label_of(raw).unlink(), ["case_2", "label"]),
    "another shape": (lambda raw: write(np.zeros((8, 16, 15), np.uint8), label_of(raw)), ["case_2", "(8, 16, 15)"]),
    "another spacing": (
        lambda raw: write(np.ones((8, 16, 16), np.uint8), label_of(raw), (1.0, 1.0, 3.0)),
        ["case_2", "spacing"],
    ),
    "truncated": (lambda raw: image_of(raw).write_bytes(image_of(raw).read_bytes()[:3000]), ["case_2"]),
    "not an image": (lambda raw: image_of(raw).write_text("hello"), ["case_2"]),
    "an undeclared label": (lambda raw: write(np.full((8, 16, 16), 7, np.uint8), label_of(raw)), ["case_2", "7"]),
    "NaN": (nan_in_image, ["case_2", "NaN"]),
    "no labels key": (lambda raw: changed_description(raw, labels=None), ["dataset.json", "'labels'"]),
    "no dataset.json": (lambda raw: (raw / "dataset.json").unlink(), ["dataset.json"]),
    "not JSON": (lambda raw: (raw / "dataset.json").write_text("{"), ["dataset.json", "JSON"]),
    "another number of cases": (lambda raw: changed_description(raw, numTraining=7), ["7", "6"]),
    "an empty folder": (lambda raw: [file.unlink() for file in (raw / "imagesTr").iterdir()], ["imagesTr"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_planning_refuses_and_leaves_nothing(kind: str, raw: Path, tmp_path: Path) -> None:
    spoil, expected = BAD[kind]
    spoil(raw)
    result = start(tmp_path, "plan", f"dataset={NAME}", "processes=0")
    assert result.returncode == 1, result.stdout
    for text in expected:
        assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "data").rglob("nnUNetPlans.json"))
    assert not list((tmp_path / "data").rglob(".writing-*"))


def test_all_bad_cases_are_listed_together(raw: Path, tmp_path: Path) -> None:
    write(np.zeros((8, 16, 15), np.uint8), raw / "labelsTr" / "case_1.nii.gz")
    nan_in_image(raw)
    result = start(tmp_path, "plan", f"dataset={NAME}", "processes=0")
    assert result.returncode == 1
    assert "case_1" in result.stderr
    assert "case_2" in result.stderr


def test_the_doctor_lists_every_problem_with_what_to_do(raw: Path, tmp_path: Path) -> None:
    write(np.zeros((8, 16, 15), np.uint8), raw / "labelsTr" / "case_1.nii.gz")
    nan_in_image(raw)
    label = raw / "labelsTr" / "case_4.nii.gz"
    label.unlink()
    (raw / "imagesTr" / "case_0_0000.nii.gz").write_text("the first file is damaged")
    (raw / "imagesTr" / "case_5_0000.nii.gz").rename(raw / "imagesTr" / "case_5.nii.gz")
    result = start(tmp_path, "doctor", f"dataset={NAME}", "processes=0")
    assert result.returncode == 1
    for case in ("case_0", "case_1", "case_2", "case_4", "case_5"):
        assert case in result.stdout
    assert "case_3" not in result.stdout
    assert "Traceback" not in result.stderr


def test_a_damaged_first_image_hides_no_other_case(raw: Path, tmp_path: Path) -> None:
    (raw / "imagesTr" / "case_0_0000.nii.gz").write_text("the first file is damaged")
    nan_in_image(raw)
    result = start(tmp_path, "plan", f"dataset={NAME}", "processes=0")
    assert result.returncode == 1
    assert "case_0" in result.stderr
    assert "case_2" in result.stderr


def test_a_good_dataset_goes_through_and_a_case_that_turns_bad_is_named(raw: Path, tmp_path: Path) -> None:
    assert start(tmp_path, "plan", f"dataset={NAME}", "processes=0").returncode == 0
    image_of(raw).write_bytes(image_of(raw).read_bytes()[:3000])
    result = start(tmp_path, "preprocess", f"dataset={NAME}", "preprocessing.processes=0")
    assert result.returncode == 1
    assert "case_2" in result.stderr
    assert "Traceback" not in result.stderr
    stored = {file.stem for file in (tmp_path / "data/preprocessed" / NAME / "nnUNetPlans_3d_fullres").glob("*.json")}
    assert stored == set(CASES) - {"case_2"}
