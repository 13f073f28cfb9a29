"""Patients in a tree of DICOM become cases of a raw dataset."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import save, volume, write_series
from dicom_labels import structures
from pydicom import Dataset

from segflow.core.errors import SegflowError
from segflow.exchange.dicom_dataset import Converted, DicomDataset, choose_cases, convert_dicom, find_dicom
from segflow.exchange.dicom_labels import LabelChoice
from segflow.storage.dicom.choose_series import SeriesChoice
from segflow.storage.dicom.series import find_series
from segflow.storage.json_files import read_json
from segflow.storage.raw_dataset import check_dataset, find_training_cases, read_description
from segflow.storage.readers import choose_reader


def series(folder: Path, patient: str, name: str = "T1", study: str = "1", shift: int = 0, **elements: object) -> Path:
    ids = {"StudyInstanceUID": f"1.{ord(patient[0])}.{study}", "StudyDate": f"2024010{study}"}
    ids["SeriesInstanceUID"] = f"{ids['StudyInstanceUID']}.{sum(map(ord, name))}"
    own = {"Modality": "MR", "PatientID": patient, "SeriesDescription": name} | ids | elements
    return write_series(folder / patient / study / name, volume() + shift, **own)


def label(file: Path, flip: bool = False, slices: int = 6) -> np.ndarray:
    """A label map of the series of `dicom_files`, in NIfTI's axes."""
    values = (np.arange(120).reshape(6, 5, 4) % 3).astype(np.uint8)[:slices]
    affine = np.array([[-0.5, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, 2.5, 100], [0, 0, 0, 1]])
    stored = values.T
    if flip:
        stored = stored[:, ::-1]
        affine[:, 3] += affine[:, 1] * 4
        affine[:, 1] *= -1
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(stored, affine), file)
    return values


def convert(folder: Path, choice: SeriesChoice | None = None, **labels: object) -> Converted:
    found = find_dicom(folder / "dicom")
    choice = choice or SeriesChoice()
    options = {"files": f"{folder}/labels/{{case}}.nii.gz"} | labels
    new = DicomDataset(folder / "raw", 7, "Made", LabelChoice(**options), choice.resample)  # type: ignore[arg-type]
    return convert_dicom(found, choose_cases(found, choice), new)


def array(file: Path) -> np.ndarray:
    return np.asarray(nibabel.load(file).dataobj).T


def test_patients_become_cases(tmp_path: Path) -> None:
    for shift, patient in enumerate(("Anna", "Ben B/2")):
        series(tmp_path / "dicom", patient, shift=shift)
    expected = [label(tmp_path / "labels/Anna.nii.gz"), label(tmp_path / "labels/Ben_B_2.nii.gz", flip=True)]
    made = convert(tmp_path)
    assert (made.cases, dict(made.failed)) == (("Anna", "Ben_B_2"), {})
    description = read_description(made.folder)
    assert description.channels == ("MR",)
    assert dict(description.labels.entries) == {"background": 0, "label_1": 1, "label_2": 2}
    problems = check_dataset(made.folder, description, choose_reader(".nii.gz"))
    assert not [problem for problem in problems if problem.severity == "error"]
    for shift, case in enumerate(made.cases):
        image, labels = (
            array(made.folder / name) for name in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz")
        )
        np.testing.assert_array_equal(image, volume() + shift)
        np.testing.assert_array_equal(labels, expected[shift])


def test_channels_by_pattern_and_studies_of_one_patient(tmp_path: Path) -> None:
    for study in "12":
        for shift, name in enumerate(("ax T1 post", "FLAIR dark fluid", "DWI")):
            series(tmp_path / "dicom", "Anna", name, study, shift)
        label(tmp_path / f"labels/Anna_2024010{study}.nii.gz")
    made = convert(tmp_path, SeriesChoice({"FLAIR": ["flair", "*FLAIR*"], "T1": "*/ax t1*"}))
    assert made.cases == ("Anna_20240101", "Anna_20240102")
    assert read_description(made.folder).channels == ("FLAIR", "T1")
    np.testing.assert_array_equal(array(made.folder / "imagesTr/Anna_20240102_0000.nii.gz"), volume() + 1)
    np.testing.assert_array_equal(array(made.folder / "imagesTr/Anna_20240102_0001.nii.gz"), volume())
    listing = read_json(made.folder / "dataset.json")["dataset"]
    assert {entry["group"] for entry in listing.values()} == {"Anna"}
    assert len(find_training_cases(made.folder, read_description(made.folder))) == 2


def test_a_table_names_patients_channels_and_labels(tmp_path: Path) -> None:
    for patient in ("Anna", "Ben"):
        for study in "12":
            series(tmp_path / "dicom", patient, "T1", study, shift=int(study))
    label(tmp_path / "a.nii.gz")
    label(tmp_path / "b.nii.gz")
    table = tmp_path / "list.csv"
    table.write_text(
        "patient,study,case,T1,label\nAnna,20240102,first,t1,a.nii.gz\nBen,1.66.1,,*,b.nii.gz\nBen,,,T1,b.nii.gz\n"
        "Carl,,,T1,b.nii.gz\n"
    )
    made = convert(tmp_path, SeriesChoice(str(table)), files=None)
    assert made.cases == ("Ben_20240101", "first")
    np.testing.assert_array_equal(array(made.folder / "imagesTr/first_0000.nii.gz"), volume() + 2)
    problems = " ".join(made.failed.values())
    assert "line 4: 2 studies" in problems
    assert "line 5: no studies" in problems


def test_a_bad_patient_does_not_stop_the_others(tmp_path: Path) -> None:
    for patient in ("Anna", "Ben", "Carl", "Dora", "Eve"):
        series(tmp_path / "dicom", patient, "T1")
        if patient != "Dora":
            label(tmp_path / f"labels/{patient}.nii.gz")
    next((tmp_path / "dicom/Ben").rglob("014")).unlink()
    series(tmp_path / "dicom", "Carl", "T2")
    cut = next((tmp_path / "dicom/Anna").rglob("035"))  # the last slice, which no other one shows to be missing
    cut.write_bytes(cut.read_bytes()[:420])
    label(tmp_path / "labels/Anna.nii.gz", slices=5)
    (tmp_path / "labels/Eve.nii.gz").write_bytes(b"no image")
    made = convert(tmp_path)
    assert made.cases == ("Anna",)
    assert made.unlabelled == ("Dora",)
    assert set(made.failed) == {"Ben", "Carl", "Eve"}
    assert "lacks 1 slice" in made.failed["Ben"]
    assert "there are several series, and nothing says which one to take" in made.failed["Carl"]
    assert len(made.damaged) == 1
    assert "035 is DICOM without an image" in made.damaged[0]
    assert sorted(file.name for file in made.folder.rglob("*.nii.gz")) == [
        "Anna.nii.gz",
        "Anna_0000.nii.gz",
        "Dora_0000.nii.gz",  # without a label, so in imagesTs
    ]
    rows = find_dicom(tmp_path / "dicom").rows()
    assert ("Ben", "20240101", "T1", "MR", "5", "3.125 × 0.8 × 0.5", "lacks 1 slice") in rows


def test_channels_on_different_grids_are_refused_or_resampled(tmp_path: Path) -> None:
    series(tmp_path / "dicom", "Anna", "T1")

    def finer(number: int, made: Dataset) -> None:
        made.ImagePositionPatient = [-10, 20, 100 + 1.25 * number]

    ids = {"StudyInstanceUID": "1.65.1", "SeriesInstanceUID": "1.65.1.7", "StudyDate": "20240101"}
    z = np.arange(11).reshape(11, 1, 1)
    stored = np.broadcast_to(z * 100, (11, 5, 4)).astype(np.int16)
    write_series(tmp_path / "dicom/T2", stored, finer, Modality="MR", PatientID="Anna", SeriesDescription="T2", **ids)
    label(tmp_path / "labels/Anna.nii.gz")
    patterns = {"T1": "T1", "T2": "T2"}
    with pytest.raises(SegflowError, match=r"'T2'.*'T1'.*different grids.*resample=true"):
        convert(tmp_path, SeriesChoice(patterns))
    assert not (tmp_path / "raw/Dataset007_Made").exists()
    made = convert(tmp_path, SeriesChoice(patterns, resample=True))
    resampled = array(made.folder / "imagesTr/Anna_0001.nii.gz")
    np.testing.assert_array_equal(resampled, np.broadcast_to(stored[::2], (6, 5, 4)))


def test_labels_must_be_known_and_be_somewhere(tmp_path: Path) -> None:
    series(tmp_path / "dicom", "Anna")
    with pytest.raises(SegflowError, match=r"no case has labels.*segflow predict"):
        convert(tmp_path, files=None)
    with pytest.raises(SegflowError, match=r"no case has labels; found no file as label=.*/labels/\{case\}.nii.gz"):
        convert(tmp_path)
    label(tmp_path / "labels/Anna.nii.gz")
    with pytest.raises(SegflowError, match=r"values without a name; found \[2\]"):
        convert(tmp_path, labels={"background": 0, "liver": 1})
    made = convert(tmp_path, labels={"liver": 1, "tumour": 2})
    assert list(read_description(made.folder).labels.entries) == ["background", "liver", "tumour"]


def test_the_labels_of_a_dicom_seg_come_with_it(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "dicom" / "dcmqi"
    if not folder.is_dir():
        pytest.skip(f"no DICOM in {folder}")
    found = find_dicom(folder)
    assert sum(row[-1] == "labels" for row in found.rows()) == 5
    chosen = choose_cases(found, SeriesChoice({"CT": ["image ?3x38x3", "ct-3slice"]}))
    assert {case.channels[0].description for case in chosen.cases} == {"", "Image 23x38x3"}
    new = DicomDataset(tmp_path / "raw", 7, "Seg", LabelChoice(segments={"liver": "liver*"}))
    made = convert_dicom(found, chosen, new)
    assert read_description(made.folder).labels.entries["liver"] == 1
    (case,) = (name for name in made.cases if name.startswith("99000"))
    labels = array(made.folder / f"labelsTr/{case}.nii.gz")
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "liver_seg.nrrd")))
    assert int(labels.sum()) == int((reference > 0).sum()) > 0


def test_segments_that_overlap_become_regions_that_can_be_planned(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "dicom" / "dcmqi"
    if not folder.is_dir():
        pytest.skip(f"no DICOM in {folder}")
    for source in (*(folder / "ct-3slice").iterdir(), folder / "partial_overlaps.dcm"):
        (tmp_path / "dicom").mkdir(exist_ok=True)
        (tmp_path / "dicom" / source.name).write_bytes(source.read_bytes())
    with pytest.raises(SegflowError, match="the segments 'GREEN' and 'ORANGE' overlap"):
        convert(tmp_path, files=None)
    made = convert(tmp_path, files=None, overlaps="regions")
    labels = read_description(made.folder).labels
    labels.check_painting()
    label = array(made.folder / f"labelsTr/{made.cases[0]}.nii.gz")
    for number, name in enumerate(("GREEN", "ORANGE", "PURPLE"), 1):
        map_of_one = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"partial_overlaps-{number}.nrrd"))) == number
        np.testing.assert_array_equal(np.isin(label, labels.entries[name]), map_of_one)


def test_structures_of_an_rtstruct_are_labels_by_patterns_of_their_names(tmp_path: Path) -> None:
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]]) * [0.5, 0.8] + [-10.1, 19.9]
    for patient, name in (("Anna", "GTV-1"), ("Ben", "gtv primary")):
        (found,) = find_series(series(tmp_path / "dicom", patient))
        contour = np.column_stack([square, np.full(4, 105.0)])
        save(structures(found, {name: [contour], "BODY": [contour]}), tmp_path / "dicom" / f"{patient}.dcm")
    made = convert(tmp_path, files=None, segments={"tumour": "gtv*"})
    assert read_json(made.folder / "dataset.json")["labels"] == {"background": 0, "tumour": 1}
    for case in made.cases:
        label = array(made.folder / f"labelsTr/{case}.nii.gz")
        assert np.argwhere(label).tolist() == [[2, y, x] for y in (0, 1) for x in (0, 1)]
