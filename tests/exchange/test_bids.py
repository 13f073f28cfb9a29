"""A BIDS dataset becomes a list of its files, whose splits keep the sessions of a subject together."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from segflow.core.errors import CaseErrors, SegflowError
from segflow.exchange.bids import find_bids, is_bids
from segflow.exchange.listed_cases import NewDataset, write_listed
from segflow.planning.plan_dataset import PlanOptions, plan_dataset
from segflow.planning.planner import PlannerSettings
from segflow.storage.raw_dataset import read_description

SUBJECTS = [(f"sub-{number:02}", session) for number in range(1, 7) for session in ("ses-a", "ses-b")]


def write(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Six subjects of two sessions with T1w and FLAIR, and label maps of values 0, 2 and 5."""
    root = tmp_path / "my_bids"
    generator = np.random.default_rng(0)
    for subject, session in SUBJECTS:
        name = f"{subject}_{session}"
        for suffix in ("T1w", "FLAIR"):
            image = generator.normal(100, 30, (12, 12, 12)).astype(np.float32)
            write(root / subject / session / "anat" / f"{name}_{suffix}.nii.gz", image)
        labels = np.zeros((12, 12, 12), np.uint8)
        labels[3:9, 3:9, 3:9] = 2
        labels[4:6, 4:6, 4:6] = 5
        write(root / "derivatives/manual" / subject / session / "anat" / f"{name}_dseg.nii.gz", labels)
    (root / "dataset_description.json").write_text("{}")
    table = "index\tname\n0\tbackground\n2\tliver\n5\ttumour\n9\tspleen\n"
    (root / "derivatives/manual/dseg.tsv").write_text(table)
    return root


def test_numbers_in_the_table_of_labels_that_no_label_has_are_left_out(bids: Path) -> None:
    with (bids / "derivatives/manual/dseg.tsv").open("a") as table:
        table.write("9" * 5000 + "\tendless\n²\tsquared\n")
    assert find_bids(bids).names == {2: "liver", 5: "tumour", 9: "spleen"}


def test_sessions_are_cases_and_subjects_are_groups(bids: Path, tmp_path: Path) -> None:
    assert is_bids(bids)
    listed = find_bids(bids)
    assert listed.files == ("FLAIR", "T1w")
    assert [(case.case_id, case.group) for case in listed.cases] == [(f"{s}_{e}", s) for s, e in SUBJECTS]
    folder = write_listed(listed, NewDataset(tmp_path / "raw", 7, "Bids"))
    description = read_description(folder)
    assert list(description.labels.entries) == ["background", "liver", "tumour"]
    assert description.groups["sub-03_ses-b"] == "sub-03"
    prepared = tmp_path / "prepared"
    report = plan_dataset(folder, prepared, PlannerSettings(), options=PlanOptions(processes=0))
    assert len(report.splits) == 5
    for split in report.splits:
        assert not {case[:6] for case in split.train} & {case[:6] for case in split.val}
    again = plan_dataset(folder, prepared, PlannerSettings(), options=PlanOptions(processes=0))
    assert again.splits == report.splits


def test_subjects_without_sessions(bids: Path) -> None:
    for suffix, place in (("T1w", bids), ("dseg", bids / "derivatives/other")):
        write(place / "sub-99/anat" / f"sub-99_{suffix}.nii.gz", np.zeros((2, 2, 2), np.uint8))
    listed = find_bids(bids, ["T1w"])
    assert listed.cases[-1].case_id == "sub-99"


def test_what_is_missing_is_named(bids: Path) -> None:
    (bids / "sub-02/ses-a/anat/sub-02_ses-a_FLAIR.nii.gz").unlink()
    (bids / "derivatives/manual/sub-03/ses-b/anat/sub-03_ses-b_dseg.nii.gz").unlink()
    with pytest.raises(SegflowError, match="sub-02_ses-a': no file for FLAIR; expected sub-02_ses-a_…FLAIR") as caught:
        find_bids(bids)
    assert "case 'sub-03_ses-b': no file for label; expected sub-03_ses-b_…dseg.nii.gz" in str(caught.value)
    listed = find_bids(bids, skip_incomplete=True)
    assert len(listed.cases) == len(SUBJECTS) - 2


def test_a_choice_that_fits_all_labelled_cases_is_proposed(bids: Path) -> None:
    write(bids / "sub-01/ses-a/anat/sub-01_ses-a_T2w.nii.gz", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(CaseErrors) as caught:
        find_bids(bids)
    text = str(caught.value)
    assert "no file for T2w" in text
    assert "The names of images end with FLAIR, T1w, T2w." in text
    assert text.endswith("channels=[FLAIR,T1w] label=dseg")
    assert ".." not in text


def test_one_of_several_files_is_chosen_by_its_name(bids: Path) -> None:
    anat = bids / "sub-01/ses-a/anat"
    for run in (1, 2):
        write(anat / f"sub-01_ses-a_run-{run}_T2w.nii.gz", np.zeros((2, 2, 2), np.uint8))
        write(anat / f"sub-01_ses-a_run-{run}_T1w.nii.gz", np.zeros((2, 2, 2), np.uint8))
    chosen = find_bids(bids, ["T1w"]).cases[0]
    assert chosen.images[0].name == "sub-01_ses-a_T1w.nii.gz"
    with pytest.raises(SegflowError, match=r"(?s)several files for T2w: .*run-1_T2w.*Choose by .* channels=\[T2w\]"):
        find_bids(bids, ["T2w"], skip_incomplete=True)
    listed = find_bids(bids, ["run-2_T2w"], skip_incomplete=True)
    assert [file.name for file in listed.cases[0].images] == ["sub-01_ses-a_run-2_T2w.nii.gz"]


def test_label_maps_of_another_name_or_pipeline(bids: Path) -> None:
    anat = bids / "derivatives/auto/sub-01/ses-a/anat"
    write(anat / "sub-01_ses-a_desc-tumour_mask.nii.gz", np.zeros((2, 2, 2), np.uint8))
    write(anat / "sub-01_ses-a_dseg.nii.gz", np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(SegflowError, match="case 'sub-01_ses-a': several files for label"):
        find_bids(bids)
    assert len(find_bids(bids, label="manual/dseg").cases) == len(SUBJECTS)
    (only,) = find_bids(bids, label="desc-tumour_mask", skip_incomplete=True).cases
    assert only.label.name == "sub-01_ses-a_desc-tumour_mask.nii.gz"
    with pytest.raises(SegflowError, match=r"no label maps probseg; found .*auto/desc-tumour_mask.*label=auto"):
        find_bids(bids, label="probseg")


def test_a_folder_without_label_maps_is_refused(tmp_path: Path) -> None:
    assert not is_bids(tmp_path)
    write(tmp_path / "sub-01/anat/sub-01_T1w.nii", np.zeros((2, 2, 2), np.uint8))
    assert is_bids(tmp_path)
    with pytest.raises(SegflowError, match="no label maps dseg; found none below derivatives"):
        find_bids(tmp_path)
