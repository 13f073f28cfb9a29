"""Every seeded defect is found, all in one pass, and clean datasets raise no alarm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from segflow.execution.progress import ProgressEvent
from segflow.storage.dataset_check import check_dataset
from segflow.storage.images import reader_by_name
from segflow.storage.label_values import label_values
from segflow.storage.raw_dataset import Problem, read_description

SHAPE = (4, 5, 6)


def volume(array: np.ndarray, **header: Any) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    for key, value in header.items():
        getattr(image, f"Set{key.capitalize()}")(value)
    return image


def make(folder: Path, ids: tuple[str, ...] = ("a", "b", "c"), **changes: Any) -> Path:
    """A clean dataset of one channel and labels 0, 1."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    generator = np.random.default_rng(0)
    for case_id in ids:
        image = generator.integers(1, 99, SHAPE).astype(np.float32)
        label = (image > 50).astype(np.uint8)
        sitk.WriteImage(volume(image), str(folder / "imagesTr" / f"{case_id}_0000.nii.gz"))
        sitk.WriteImage(volume(label), str(folder / "labelsTr" / f"{case_id}.nii.gz"))
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "x": 1},
        "numTraining": len(ids),
        "file_ending": ".nii.gz",
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def check(folder: Path, **options: Any) -> list[Problem]:
    return check_dataset(folder, read_description(folder), reader_by_name("SimpleITKIO"), **options)


def image_file(folder: Path) -> Path:
    return folder / "imagesTr" / "b_0000.nii.gz"


def label_file(folder: Path) -> Path:
    return folder / "labelsTr" / "b.nii.gz"


def put(file: Path, array: np.ndarray, **header: Any) -> None:
    sitk.WriteImage(volume(array, **header), str(file))


def ones(value: float = 1, dtype: type = np.uint8, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Ones with a single voxel of another value."""
    array = np.ones(shape, dtype)
    array[1, 2, 3] = value
    return array


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


DEFECTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing label": (lambda d: label_file(d).unlink(), "error", "has no label"),
    "missing image": (lambda d: image_file(d).unlink(), "warning", "has no image"),
    "truncated image": (lambda d: cut(image_file(d)), "error", "cannot read"),
    "truncated label": (lambda d: cut(label_file(d)), "error", "cannot read"),
    "not an image": (lambda d: image_file(d).write_text("text"), "error", "cannot read"),
    "shape": (lambda d: put(label_file(d), ones(shape=(4, 5, 7))), "error", "differ in shape"),
    "spacing": (lambda d: put(label_file(d), ones(), spacing=(1.0, 1.0, 2.0)), "error", "differ in spacing"),
    "origin": (lambda d: put(label_file(d), ones(), origin=(5.0, 0.0, 0.0)), "warning", "origin or direction"),
    "direction": (
        lambda d: put(label_file(d), ones(), direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1)),
        "warning",
        "origin or direction",
    ),
    "undeclared label": (lambda d: put(label_file(d), ones(3)), "error", "labels that dataset.json does not name"),
    "0 and 255": (lambda d: put(label_file(d), ones() * 255), "error", "found [255]"),
    "fractional label": (lambda d: put(label_file(d), ones(0.5, np.float32)), "error", "not whole numbers"),
    "NaN in label": (lambda d: put(label_file(d), ones(np.nan, np.float32)), "error", "not whole numbers"),
    "NaN in image": (lambda d: put(image_file(d), ones(np.nan, np.float32)), "error", "NaN in 1 voxel"),
    "infinite image": (lambda d: put(image_file(d), ones(np.inf, np.float32)), "error", "infinite"),
    "marker of a missing voxel": (
        lambda d: put(image_file(d), np.where(ones(0) == 0, -3.4e38, np.arange(120).reshape(SHAPE)).astype(np.float32)),
        "warning",
        "values that no measurement gives; 1 of 120 voxels is as large as -3.4e+38",
    ),
    "scaled away": (
        lambda d: put(image_file(d), (np.arange(120).reshape(SHAPE) * 1e23).astype(np.float32)),
        "warning",
        "values that no measurement gives; the values reach 1.19e+25",
    ),
    "constant image": (lambda d: put(image_file(d), np.full(SHAPE, 7, np.int16)), "warning", "is 7 everywhere"),
    "zero image": (lambda d: put(image_file(d), np.zeros(SHAPE, np.int16)), "error", "zero everywhere"),
    "no label at all": (lambda d: put(label_file(d), ones(1e12, np.float64)), "error", "values that are no labels"),
    "too large a label": (
        lambda d: put(label_file(d), ones(2**32 + 1, np.int64)),
        "error",
        "values that are no labels",
    ),
    "far label": (lambda d: put(label_file(d), ones(2e9, np.float64)), "error", "found [2000000000]"),
    "almost whole label": (lambda d: put(label_file(d), ones(1.0000001, np.float64)), "error", "found 1.0000001, in 1"),
    "upper-case ending": (
        lambda d: image_file(d).rename(d / "imagesTr" / "b_0000.NII.GZ"),
        "error",
        "ends in .NII.GZ; expected .nii.gz",
    ),
    "empty label": (lambda d: put(label_file(d), np.zeros(SHAPE, np.uint8)), "warning", "background only"),
    "extra channel file": (
        lambda d: put(d / "imagesTr" / "b_0001.nii.gz", ones()),
        "error",
        "a channel is too many: b_0001.nii.gz",
    ),
    "4D": (
        lambda d: sitk.WriteImage(sitk.JoinSeries([volume(ones()), volume(ones())]), str(image_file(d))),
        "error",
        "another number of channels",
    ),
    "mixed endings": (lambda d: put(d / "imagesTr" / "b_0000.nrrd", ones()), "error", "mixed file endings"),
    "gap in numbers": (
        lambda d: image_file(d).rename(d / "imagesTr" / "b_0001.nii.gz"),
        "error",
        "a channel is missing: b_0000.nii.gz",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_seeded_defect_is_found_and_its_case_named(tmp_path: Path, defect: str) -> None:
    seed, severity, text = DEFECTS[defect]
    folder = make(tmp_path / "Dataset001_Toy")
    seed(folder)
    problems = [problem for problem in check(folder) if problem.case == "b"]
    matching = [problem for problem in problems if text in problem.message]
    assert [problem.severity for problem in matching] == [severity], problems
    assert all(problem.fix for problem in problems)
    assert "case 'b'" in str(matching[0])
    if text.startswith("a channel is"):
        assert not any("another number of channels" in problem.message for problem in problems), "told once"


def test_a_clean_dataset_raises_no_alarm(tmp_path: Path) -> None:
    assert check(make(tmp_path / "Dataset001_Toy")) == []


def test_all_problems_are_listed_in_one_pass(tmp_path: Path) -> None:
    folder = make(tmp_path / "Dataset001_Toy", tuple("abcdef"), numTraining=9, labels={"background": 0, "x": 1, "y": 3})
    put(folder / "labelsTr" / "a.nii.gz", ones(7))
    put(folder / "imagesTr" / "c_0000.nii.gz", ones(np.nan, np.float32))
    put(folder / "labelsTr" / "c.nii.gz", ones(8))
    cut(folder / "imagesTr" / "d_0000.nii.gz")
    cut(folder / "labelsTr" / "d.nii.gz")
    (folder / "labelsTr" / "f.nii.gz").unlink()
    problems = check(folder)
    assert [problem.case for problem in problems] == [None, "a", "c", "c", "d", "d", "f"]
    assert "claims 9 training cases; found 6" in problems[0].message


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "Dataset001_Toy")
    read: list[str] = []
    reader = reader_by_name("SimpleITKIO")
    for method in ("read_file", "read_float_file", "read_label_file"):
        whole = getattr(type(reader), method)
        monkeypatch.setattr(
            type(reader), method, lambda self, file, whole=whole: (read.append(file.name), whole(self, file))[1]
        )
    check(folder)
    assert sorted(read) == sorted([*(f"{c}_0000.nii.gz" for c in "abc"), *(f"{c}.nii.gz" for c in "abc")])


def test_channels_of_different_grids_are_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "Dataset001_Toy", ("a",), channel_names={"0": "T1", "1": "T2", "2": "T3"})
    put(folder / "imagesTr" / "a_0001.nii.gz", ones(shape=(4, 5, 7)))
    put(folder / "imagesTr" / "a_0002.nii.gz", np.zeros(SHAPE, np.int16), spacing=(1.0, 2.0, 1.0))
    messages = [problem.message for problem in check(folder)]
    assert any("a_0000.nii.gz and a_0001.nii.gz differ in shape" in text for text in messages)
    assert any("a_0000.nii.gz and a_0002.nii.gz differ in spacing" in text for text in messages)
    assert any("a channel is zero everywhere: a_0002.nii.gz" in text for text in messages)


def test_labels_of_a_region_and_the_ignore_label_are_declared(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    folder = make(tmp_path / "Dataset001_Toy", labels=labels, regions_class_order=[1, 2])
    put(label_file(folder), ones(3))
    assert check(folder) == []


def test_images_whose_axes_run_in_different_directions_are_told_of(tmp_path: Path) -> None:
    folder = make(tmp_path / "Dataset001_Toy")
    flipped = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    put(image_file(folder), ones(), direction=flipped)
    put(label_file(folder), ones(), direction=flipped)
    (problem,) = [problem for problem in check(folder) if problem.case is None]
    assert problem.severity == "warning"
    assert "LPS in a, c; RAS in b" in problem.message
    assert "SimpleITKIOWithReorient" in (problem.fix or "")
    assert not [
        p
        for p in check_dataset(folder, read_description(folder), reader_by_name("SimpleITKIOWithReorient"))
        if p.case is None
    ]


def test_oblique_images_raise_no_alarm(tmp_path: Path) -> None:
    folder = make(tmp_path / "Dataset001_Toy")
    oblique = (0.6, -0.8, 0, 0.8, 0.6, 0, 0, 0, 1)
    put(image_file(folder), ones(2), direction=oblique)
    put(label_file(folder), ones(), direction=oblique)
    assert check(folder) == []


def test_a_dataset_without_any_foreground_is_an_error(tmp_path: Path) -> None:
    folder = make(tmp_path / "Dataset001_Toy", ("b",))
    put(label_file(folder), np.zeros(SHAPE, np.uint8))
    (problem,) = [problem for problem in check(folder) if problem.case is None]
    assert problem.severity == "error"
    assert "no label map has foreground" in problem.message


def test_worker_processes_find_the_same_and_report_progress(tmp_path: Path) -> None:
    folder = make(tmp_path / "Dataset001_Toy")
    put(label_file(folder), ones(3))
    events: list[ProgressEvent] = []
    assert check(folder, processes=2, progress=events.append) == check(folder)
    assert [event.done for event in events] == [0, 1, 2, 3]
    assert {event.name for event in events} == {"", "a", "b", "c"}


def test_the_values_of_a_label_map() -> None:
    label = np.array([[[3, -1]], [[0, 300]]], np.int16)
    assert label_values(label) == [-1, 0, 3, 300]
    extremes = np.array([[[-32768, 32767, 0]]], np.int16)
    assert label_values(extremes) == [-32768, 0, 32767]
    assert label_values(np.array([[[2_000_000_000, 0]]], np.int32)) == [0, 2_000_000_000]


def test_a_real_dataset_raises_no_alarm(test_data: Path) -> None:
    folder = test_data / "Dataset027_ACDC"
    assert check_dataset(folder, read_description(folder), reader_by_name("SimpleITKIO")) == []


def test_a_real_dataset_whose_images_are_left_handed_is_told_of(test_data: Path) -> None:
    folder = test_data / "Dataset144_BrainNrrd"
    (problem,) = check_dataset(folder, read_description(folder), reader_by_name("SimpleITKIO"))
    assert (problem.case, problem.severity) == (None, "warning")
    assert "left-handed" in problem.message


def test_a_nifti_of_either_hand_raises_no_alarm(tmp_path: Path) -> None:
    folder = make(tmp_path / "Dataset001_Toy", ("b",))
    mirrored = (-1, 0, 0, 0, 1, 0, 0, 0, 1)
    put(image_file(folder), ones(2), direction=mirrored)
    put(label_file(folder), ones(), direction=mirrored)
    assert check(folder) == []


def test_images_with_two_places_are_told_of(tmp_path: Path) -> None:
    folder = make(tmp_path / "Dataset001_Toy")
    for file in (image_file(folder), label_file(folder)):
        image = nibabel.load(file)
        moved = image.affine.copy()
        moved[0, 3] += 12.0
        image.set_sform(moved, 4)
        image.set_qform(image.header.get_qform(), 1)
        nibabel.save(image, file)
    problems = check(folder)
    assert {(problem.case, problem.severity) for problem in problems} == {("b", "warning")}
    assert [problem.message.split(" has ")[0] for problem in problems] == [
        image_file(folder).name,
        label_file(folder).name,
    ]
    assert all("12 mm apart" in problem.message for problem in problems)


def test_a_real_dataset_of_several_orientations_is_told_of(test_data: Path) -> None:
    folder = test_data / "Dataset145_SpinalCordGeom"
    (problem,) = check_dataset(folder, read_description(folder), reader_by_name("SimpleITKIO"))
    assert problem.severity == "warning"
    assert "axes run in different directions" in problem.message
