"""A decathlon task becomes a raw dataset that passes the check, or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from found_images import find_images

from segflow.core.errors import SegflowError
from segflow.exchange.decathlon import convert_decathlon, dataset_name
from segflow.execution.progress import ProgressEvent
from segflow.storage.images import choose_reader, read_case
from segflow.storage.raw_dataset import check_dataset, find_training_cases, read_description

AFFINE = np.array([[-0.5, 0, 0, 10], [0, 0.75, 0, -20], [0, 0, 2.0, 30], [0, 0, 0, 1]])


def save(array: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), file)


def make_task(folder: Path, channels: int = 2, **changes: Any) -> Path:
    """Two training cases and one test case of (x, y, z) = (6, 5, 4), with the hidden files of the real downloads."""
    shape = (6, 5, 4) if channels == 1 else (6, 5, 4, channels)
    generator = np.random.default_rng(0)
    for part, ids in (("imagesTr", ("x_1", "x_2")), ("imagesTs", ("x_3",))):
        for case_id in ids:
            save(generator.integers(1, 99, shape).astype(np.int16), folder / part / f"{case_id}.nii.gz")
        (folder / part / f"._{ids[0]}.nii.gz").write_bytes(b"hidden")
    for case_id in ("x_1", "x_2"):
        save(generator.integers(0, 3, (6, 5, 4)).astype(np.uint8), folder / "labelsTr" / f"{case_id}.nii.gz")
    (folder / "labelsTr" / "._x_1.nii.gz").write_bytes(b"hidden")
    content = {
        "name": "Toy",
        "licence": "CC0",
        "tensorImageSize": "4D",
        "modality": {str(number): f"MR{number}" for number in range(channels)},
        "labels": {"0": "background", "1": "organ", "2": "tumour"},
        "numTraining": 99,
        "numTest": 1,
        "training": [{"image": "./imagesTr/x_1.nii.gz", "label": "./labelsTr/x_1.nii.gz"}],
        "test": ["./imagesTs/x_3.nii.gz"],
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_a_4d_task_becomes_one_file_per_channel(tmp_path: Path) -> None:
    task = make_task(tmp_path / "Task05_Toy")
    folder = convert_decathlon(task, tmp_path / "raw")
    assert folder == tmp_path / "raw" / "Dataset005_Toy"
    description = read_description(folder)
    reader = choose_reader(".nii.gz")
    assert description.channels == ("MR0", "MR1")
    assert dict(description.labels.entries) == {"background": 0, "organ": 1, "tumour": 2}
    assert check_dataset(folder, description, reader) == []
    case = read_case(find_training_cases(folder, description)[0], reader)
    source = nibabel.load(task / "imagesTr" / "x_1.nii.gz")
    np.testing.assert_array_equal(case.image, np.asarray(source.dataobj).transpose(3, 2, 1, 0))
    np.testing.assert_array_equal(nibabel.load(folder / "imagesTr" / "x_1_0001.nii.gz").affine, AFFINE)
    assert nibabel.load(folder / "imagesTr" / "x_1_0001.nii.gz").get_data_dtype() == np.int16
    assert [c.case_id for c in find_images(folder / "imagesTs", ".nii.gz", 2)] == ["x_3"]
    assert {"training", "test", "modality", "tensorImageSize", "numTest"}.isdisjoint(description.raw)
    assert description.raw["licence"] == "CC0"


def test_3d_images_and_labels_are_copied_byte_for_byte(tmp_path: Path) -> None:
    task = make_task(tmp_path / "Task05_Toy", channels=1)
    folder = convert_decathlon(task, tmp_path / "raw")
    for case_id in ("x_1", "x_2"):
        copied = (folder / "imagesTr" / f"{case_id}_0000.nii.gz").read_bytes()
        assert copied == (task / "imagesTr" / f"{case_id}.nii.gz").read_bytes()
        label = (folder / "labelsTr" / f"{case_id}.nii.gz").read_bytes()
        assert label == (task / "labelsTr" / f"{case_id}.nii.gz").read_bytes()


def test_worker_processes_give_the_same_files_and_progress_is_told(tmp_path: Path) -> None:
    task = make_task(tmp_path / "Task05_Toy")
    events: list[ProgressEvent] = []
    one = convert_decathlon(task, tmp_path / "one", progress=events.append)
    two = convert_decathlon(task, tmp_path / "two", processes=2)
    assert [(event.done, event.total) for event in events] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    for file in one.rglob("*.*"):
        assert (two / file.relative_to(one)).read_bytes() == file.read_bytes()


def test_another_number_may_be_given(tmp_path: Path) -> None:
    task = make_task(tmp_path / "Task05_Toy")
    assert convert_decathlon(task, tmp_path / "raw", 42).name == "Dataset042_Toy"
    assert dataset_name(tmp_path / "Toy", 7) == "Dataset007_Toy"
    with pytest.raises(SegflowError, match="'Toy' has no number"):
        dataset_name(tmp_path / "Toy")


def test_a_taken_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "raw" / "Dataset005_Other").mkdir(parents=True)
    with pytest.raises(SegflowError, match="found Dataset005_Other"):
        convert_decathlon(make_task(tmp_path / "Task05_Toy"), tmp_path / "raw")


def test_a_task_without_test_images_converts(tmp_path: Path) -> None:
    task = make_task(tmp_path / "Task05_Toy")
    for file in (task / "imagesTs").iterdir():
        file.unlink()
    (task / "imagesTs").rmdir()
    assert list((convert_decathlon(task, tmp_path / "raw") / "imagesTs").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda task: (task / "labelsTr" / "x_2.nii.gz").unlink(), r"no label; expected labelsTr/x_2\.nii\.gz"),
        (
            lambda task: (task / "imagesTr" / "x_2.nii.gz").write_bytes(
                (task / "imagesTr" / "x_2.nii.gz").read_bytes()[:-50]
            ),
            r"x_2\.nii\.gz",
        ),
        (
            lambda task: save(np.zeros((6, 5, 4, 3), np.int16), task / "imagesTr" / "x_2.nii.gz"),
            r"case 'x_2': .*channels.*expected 2 channels",
        ),
        (lambda task: (task / "dataset.json").unlink(), "Is this a decathlon task"),
        (lambda task: make_task(task, labels={"background": 0}), "neither the decathlon's"),
        (lambda task: make_task(task, modality="MR"), "neither the decathlon's"),
        (lambda task: make_task(task, modality={"MR": "0"}), "neither the decathlon's"),
        (lambda task: make_task(task, labels={"0": "background", "liver": 1}), "neither the decathlon's"),
        (lambda task: make_task(task, labels={"0": "background", "1": "a", "2": "a"}), "the same name"),
        (lambda task: (task / "dataset.json").write_text("[1]"), "neither the decathlon's"),
    ],
)
def test_a_failed_conversion_names_the_cause_and_leaves_nothing(tmp_path: Path, damage: Any, message: str) -> None:
    task = make_task(tmp_path / "Task05_Toy")
    damage(task)
    with pytest.raises(SegflowError, match=message):
        convert_decathlon(task, tmp_path / "raw")
    assert list(tmp_path.glob("raw/*")) == []


def test_the_real_hippocampus_task_converts(test_data: Path, tmp_path: Path) -> None:
    task = test_data / "Task04_Hippocampus"
    folder = convert_decathlon(task, tmp_path)
    description = read_description(folder)
    assert folder.name == "Dataset004_Hippocampus"
    assert dict(description.labels.entries) == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert len(find_training_cases(folder, description)) == 10
    assert check_dataset(folder, description, choose_reader(".nii.gz")) == []
