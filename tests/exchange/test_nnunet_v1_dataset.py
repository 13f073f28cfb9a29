"""A task of nnU-Net v1 becomes a raw dataset that passes the check."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.errors import SegflowError
from segflow.exchange.nnunet_v1_dataset import convert_nnunet_v1_dataset
from segflow.storage.images import choose_reader
from segflow.storage.raw_dataset import check_dataset, read_description


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "Task500_Toy"
    array = np.arange(60).reshape(3, 4, 5)
    names = ["imagesTr/a_0000", "imagesTr/a_0001", "labelsTr/a", "imagesTs/b_0000", "imagesTs/b_0001", "labelsTs/b"]
    for name in names:
        file = folder / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        values = array % 2 if name.startswith("labels") else array
        sitk.WriteImage(sitk.GetImageFromArray(values.astype(np.int16)), str(file))
    (folder / "imagesTr" / "._a_0000.nii.gz").write_bytes(b"hidden")
    content = {
        "name": "Toy",
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "Background", "1": "organ"},
        "numTraining": 1,
        "training": [],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_it_converts_with_all_its_folders(task: Path, tmp_path: Path) -> None:
    folder = convert_nnunet_v1_dataset(task, tmp_path / "raw")
    description = read_description(folder)
    assert folder.name == "Dataset500_Toy"
    assert description.channels == ("T1", "T2")
    assert dict(description.labels.entries) == {"background": 0, "organ": 1}
    assert check_dataset(folder, description, choose_reader(".nii.gz")) == []
    assert (folder / "labelsTs" / "b.nii.gz").read_bytes() == (task / "labelsTs" / "b.nii.gz").read_bytes()
    assert not list(folder.rglob("._*"))


def test_a_broken_task_leaves_nothing(task: Path, tmp_path: Path) -> None:
    (task / "imagesTr" / "a_0001.nii.gz").rename(task / "imagesTr" / "a_0002.nii.gz")
    with pytest.raises(SegflowError, match=r"a_0001\.nii\.gz"):
        convert_nnunet_v1_dataset(task, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
