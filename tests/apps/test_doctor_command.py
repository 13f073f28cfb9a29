"""``segflow doctor`` on the command line: what it says of many cases, and the mended copy."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from apps_commands import start

from segflow.apps._records import DatasetSettings
from segflow.apps.doctor import Doctor
from segflow.core.errors import SegflowError

CASES = 8


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A dataset in which all label maps but one hold the value 3, which has no name."""
    folder = tmp_path / "data" / "raw" / "Dataset009_Stray"
    generator = np.random.default_rng(0)
    for number in range(CASES):
        image = generator.normal(size=(6, 8, 10)).astype(np.float32)
        label = (image > 0).astype(np.uint8) * (3 if number else 1)
        for array, file in ((image, f"imagesTr/c{number}_0000.nii.gz"), (label, f"labelsTr/c{number}.nii.gz")):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / file))
    labels = {"background": 0, "organ": 1, "ignore": 2}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": CASES, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_the_doctor_mends_into_a_copy(raw: Path, tmp_path: Path) -> None:
    sick = start(tmp_path, "doctor", "dataset=9", "processes=0")
    assert sick.returncode == 1
    assert "7 cases: c1, c2, c3, c4, c5 and 2 more" in sick.stdout
    assert "fix=true output=" in sick.stderr
    mended = start(tmp_path, "doctor", "dataset=9", "processes=0", "fix=true", "output=mended", "unknown_labels=ignore")
    assert mended.returncode == 0, mended.stderr
    assert "replaced by 2" in mended.stdout
    assert "8 cases; files without a change are linked to" in mended.stdout
    assert "Next: segflow plan dataset.path=" in mended.stdout
    rows = list(csv.DictReader((tmp_path / "mended" / "mending.csv").open()))
    assert [row["case"] for row in rows] == [f"c{number}" for number in range(1, CASES)]
    assert (tmp_path / "mended" / "imagesTr" / "c1_0000.nii.gz").is_symlink()
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mended/labelsTr/c1.nii.gz"))))) == {0, 2}


def test_a_dataset_that_is_not_there_yet_is_made_as_for_planning(tmp_path: Path) -> None:
    checked = start(tmp_path, "doctor", "dataset=phantom", "processes=0")
    assert checked.returncode == 0, checked.stderr
    assert "Dataset001_Phantom: nothing is wrong." in checked.stdout
    assert "Next: segflow plan dataset=phantom" in checked.stdout


def test_settings_that_do_not_fit_are_refused() -> None:
    dataset = DatasetSettings(name="Dataset009_Stray")
    with pytest.raises(SegflowError, match="fix=true needs a folder"):
        Doctor(dataset=dataset, fix=True)
    with pytest.raises(SegflowError, match="fix=true"):
        Doctor(dataset=dataset, output=Path("x"))
    with pytest.raises(SegflowError, match=r"refuse \| background \| ignore"):
        Doctor(dataset=dataset, unknown_labels="drop")
    with pytest.raises(SegflowError, match=r"link \| copy"):
        Doctor(dataset=dataset, unchanged="move")
