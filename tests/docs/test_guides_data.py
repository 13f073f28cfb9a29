"""The commands of the guides about data run: a dataset of one's own, DICOM, labels, splits, cascades, fine-tuning."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from dicom_files import write_series
from pages import run_page

from segflow.storage.json_files import read_json

PREPARED = Path("data/preprocessed")


def test_own_dataset(workspace: Path) -> None:
    ran = run_page("guides/own_dataset.md", workspace, own_datasets=["Dataset007_Mine"])
    assert "Plans 'nnUNetPlans' of Dataset007_Mine" in ran.output("plan dataset=7")
    listed = read_json(workspace / "data/raw/Dataset007_Mine/dataset.json")
    assert len(listed["dataset"]) == 6


def test_dicom(workspace: Path) -> None:
    affine = np.array([[-0.5, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, 2.5, 100], [0, 0, 0, 1]])
    label = np.zeros((20, 20, 20), np.uint8)
    label[5:9, 5:9, 5:9] = 1
    (workspace / "segmentations").mkdir()
    for number, patient in enumerate(("Anna", "Ben")):
        ids = {"PatientID": patient, "StudyInstanceUID": f"1.{number}", "SeriesInstanceUID": f"1.{number}.1"}
        voxels = np.random.default_rng(number).integers(-100, 300, (20, 20, 20)).astype(np.int16)
        write_series(workspace / "dicom" / patient, voxels, **ids)
        nibabel.save(nibabel.Nifti1Image(label, affine), workspace / "segmentations" / f"{patient}.nii.gz")
    ran = run_page("guides/dicom.md", workspace, own_datasets=["Dataset007_Abdomen"])
    assert "CT of Anna" in ran.output("convert source=dicom")
    for folder, ending in (("dicom_images", "_0000.nii.gz"), ("dicom_seg", ".dcm"), (".", ".nii.gz")):
        assert (workspace / "predictions" / folder / f"Anna{ending}").is_file()


def test_labels(workspace: Path) -> None:
    ran = run_page("guides/labels.md", workspace, own_datasets=["Dataset007_Values", "Dataset008_Regions"])
    assert "It needs no conversion" in next(r.stderr for c, r in ran.commands if "doctor dataset=7" in c)
    assert "nothing is wrong" in ran.output("doctor dataset=8")


def test_ignore_label(workspace: Path) -> None:
    ran = run_page("guides/ignore_label.md", workspace, own_datasets=["Dataset007_Sparse"])
    assert "tumour" in ran.output("train dataset=7")


def test_partial_labels(raw_workspace: Path) -> None:
    ran = run_page("guides/partial_labels.md", raw_workspace, own_datasets=["Dataset007_Partly"])
    assert "partly labelled: tumour was not drawn in" in next(r.stderr for c, r in ran.commands if "doctor" in c)


def test_missing_channels(raw_workspace: Path) -> None:
    ran = run_page("guides/missing_channels.md", raw_workspace, own_datasets=["Dataset007_Two"])
    assert "smooth (channel 1) is missing in 1 of" in next(r.stderr for c, r in ran.commands if "doctor" in c)


def test_splits(workspace: Path) -> None:
    ran = run_page("guides/splits.md", workspace)
    told = next(r.stderr for c, r in ran.commands if "leave_one_group_out" in c)
    assert "leave out: 0 A (2 cases), 1 B (2 cases), 2 C (2 cases)" in told
    splits = read_json(workspace / PREPARED / "Dataset001_Phantom/splits_final.json")
    assert [len(split["val"]) for split in splits] == [2], "those of the page's last command"


def test_cascade(workspace: Path) -> None:
    ran = run_page("guides/cascade.md", workspace)
    assert "made, since there is a 3d_lowres" in ran.output("force_lowres")


def test_fine_tuning(workspace: Path) -> None:
    ran = run_page("guides/fine_tuning.md", workspace, own_datasets=["Dataset043_Organ"])
    told = next(r.stderr for c, r in ran.commands if "initial_weights" in c)
    assert "tensors copied" in told
    assert "initial weights skipped: heads.0.weight" in told


def test_fast(tmp_path: Path) -> None:
    assert not run_page("guides/fast.md", tmp_path).commands, "they are composed; the guide of resuming runs a budget"


def test_large_images(workspace: Path) -> None:
    ran = run_page("guides/large_images.md", workspace, own_datasets=["Dataset009_Big"])
    assert "nothing is wrong" in ran.output("doctor dataset=9")


def test_other_runtimes(workspace: Path) -> None:
    run_page("guides/other_runtimes.md", workspace)
    assert list((workspace / "for_nnunet").rglob("fold_0/checkpoint_final.pth"))


def test_changing_settings(workspace: Path) -> None:
    run_page("guides/changing_settings.md", workspace)
