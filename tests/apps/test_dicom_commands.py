"""A tree of DICOM on the command line: converted with a list of what was found, and predicted."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import tiny_models
from apps_commands import start
from dicom_files import write_series


def tree(folder: Path) -> None:
    for number, patient in enumerate(("Anna", "Ben", "Carl")):
        ids = {"PatientID": patient, "StudyInstanceUID": f"1.{number}", "SeriesInstanceUID": f"1.{number}.1"}
        voxels = np.random.default_rng(number).integers(0, 500, (20, 20, 20)).astype(np.int16)
        own = {"Modality": "MR", "SeriesDescription": "T1"} | ids
        gone = 4 if patient == "Ben" else -1
        write_series(folder / patient, voxels, lambda k, _, gone=gone: k != gone, **own)


def test_a_tree_is_converted_and_predicted(tmp_path: Path) -> None:
    tree(tmp_path / "dicom")
    for patient in ("Anna", "Carl"):
        affine = np.array([[-0.5, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, 2.5, 100], [0, 0, 0, 1]])
        label = np.zeros((20, 20, 20), np.uint8)
        label[5:9, 5:9, 5:9] = 1
        nibabel.save(nibabel.Nifti1Image(label, affine), tmp_path / f"{patient}_seg.nii.gz")
    arguments = [
        "source=dicom",
        "dataset_id=7",
        "name=Made",
        "label={case}_seg.nii.gz",
        "labels={background:0,liver:1}",
    ]
    told = start(tmp_path, "convert", *arguments, "labels={background:0,liver:1}", "processes=0")
    assert told.returncode == 1
    assert "MR of Anna" in told.stdout
    assert "lacks 1 slice" in told.stdout
    assert "Written to" in told.stdout
    assert "case 'Ben'" in told.stderr
    assert "resample=true" in told.stderr
    images = sorted(file.name for file in (tmp_path / "data/raw/Dataset007_Made/imagesTr").iterdir())
    assert images == ["Anna_0000.nii.gz", "Carl_0000.nii.gz"]

    run = tiny_models.make_run(tmp_path / "run")
    told = start(tmp_path, "predict", f"model={run}", "input=dicom", "output=out", "series='T*'", "resample=true")
    assert told.returncode == 0, told.stderr
    assert sorted(file.name for file in (tmp_path / "out").glob("*.nii.gz")) == [
        "Anna.nii.gz",
        "Ben.nii.gz",
        "Carl.nii.gz",
    ]
