"""Predictions of DICOM are written as DICOM-SEG beside the label maps, and nothing is done where they cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tiny_models
from dicom_files import write_series
from dicom_labels import dcmqi_maps, labels_in, on_series

from segflow.core.errors import SegflowError
from segflow.inference.dicom_settings import DicomOutputSettings
from segflow.inference.planes import Room
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.storage.dicom.choose_series import SeriesChoice
from segflow.storage.dicom.series import find_series

LESION = {"CodeValue": "52988006", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Lesion"}
CODES = {
    name: {"SegmentedPropertyCategoryCodeSequence": LESION, "SegmentedPropertyTypeCodeSequence": LESION}
    for name in ("organ", "whole")
}


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """A JSON file with codes for the labels that the table does not have."""
    file = tmp_path / "codes.json"
    file.write_text(json.dumps(CODES))
    return file


def series(folder: Path, patient: str, shape: tuple[int, int, int] = (20, 20, 19)) -> Path:
    voxels = np.random.default_rng(ord(patient)).integers(0, 500, shape).astype(np.int16)
    ids = {"StudyInstanceUID": f"1.{ord(patient)}", "SeriesInstanceUID": f"1.{ord(patient)}.1"}
    return write_series(folder, voxels, Modality="MR", PatientID=patient, SeriesDescription="T1", **ids)


def predict(run: Path, source: Path, output: Path, choice: SeriesChoice | None = None, **options: object) -> None:
    settings = DicomOutputSettings(output_format="dicom_seg", **options)  # type: ignore[arg-type]
    window = PredictSettings(device="cpu", mirroring=False)
    report = predict_cases(run, source, output, window, dicom_settings=settings, series=choice)
    assert report.ok, report.failed


def check(output: Path, case_id: str, source: Path, entries: dict[str, int | tuple[int, ...]]) -> pydicom.Dataset:
    """The DICOM-SEG of a case holds what its label map holds, by us and by dcmqi."""
    file = output / "dicom_seg" / f"{case_id}.dcm"
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(output / f"{case_id}.nii.gz")))
    (found,) = [one for one in find_series(source) if one.patient_id == case_id]
    assert label.any()
    np.testing.assert_array_equal(labels_in(found, file).label_map(entries), label)
    maps = [on_series(image, found) for image in dcmqi_maps(file, output.parent / f"{output.name}_{case_id}")]
    for number, values in enumerate(entries.values(), 1):
        np.testing.assert_array_equal(np.any([one == number for one in maps], axis=0), np.isin(label, values))
    return pydicom.dcmread(file, stop_before_pixels=True)


def test_patients_get_dicom_seg_beside_their_label_maps(
    tmp_path: Path, codes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = tiny_models.make_run(tmp_path / "run")
    for patient in "AB":
        series(tmp_path / "dicom" / patient, patient)
    predict(run, tmp_path / "dicom", tmp_path / "out", segment_codes=codes, series_description="Organ and lesion")
    assert not [one.getMessage() for one in caplog.records if one.name.startswith("highdicom")]
    for patient in "AB":
        made = check(tmp_path / "out", patient, tmp_path / "dicom", {"organ": 1, "lesion": 2})
        assert made.SeriesDescription == "Organ and lesion"
        assert made.PatientID == patient
        assert made.SegmentSequence[0].SegmentAlgorithmName == "segflow Dataset900_Tiny"
    before = (tmp_path / "out/dicom_seg/A.dcm").stat().st_mtime_ns
    (tmp_path / "out/dicom_seg/B.dcm").unlink()
    predict(run, tmp_path / "dicom", tmp_path / "out", segment_codes=codes)
    assert (tmp_path / "out/dicom_seg/A.dcm").stat().st_mtime_ns == before
    assert (tmp_path / "out/dicom_seg/B.dcm").is_file()


def test_regions_become_segments_that_overlap(tmp_path: Path, codes: Path) -> None:
    run = tiny_models.make_run(tmp_path / "run", regions=True)
    series(tmp_path / "dicom", "A")
    predict(run, tmp_path / "dicom", tmp_path / "out", segment_codes=codes)
    made = check(tmp_path / "out", "A", tmp_path / "dicom", {"whole": (1, 2), "lesion": 2})
    assert [one.SegmentLabel for one in made.SegmentSequence] == ["whole", "lesion"]
    settings = DicomOutputSettings(output_format="dicom_labelmap", segment_codes=codes)
    with pytest.raises(SegflowError, match="LABELMAP cannot hold regions"):
        predict_cases(run, tmp_path / "dicom", tmp_path / "x", dicom_settings=settings)


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path: Path, codes: Path) -> None:
    run = tiny_models.make_run(tmp_path / "run")
    series(tmp_path / "dicom", "A")
    out = tmp_path / "out"
    with pytest.raises(SegflowError, match=r"code for each label, .* found organ\. Write them.*segment_codes=FILE"):
        predict(run, tmp_path / "dicom", out)
    (tmp_path / "images").mkdir()
    image = sitk.GetImageFromArray(np.zeros((20, 20, 20), np.float32))
    sitk.WriteImage(image, str(tmp_path / "images/a_0000.nii.gz"))
    with pytest.raises(SegflowError, match="output_format=dicom_seg needs DICOM as input"):
        predict(run, tmp_path / "images", out, segment_codes=codes)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(SegflowError, match="must map names of labels to their codes"):
        predict(run, tmp_path / "dicom", out, segment_codes=tmp_path / "list.json")
    assert not out.exists()
    with pytest.raises(SegflowError, match="output_format is unknown; found dicom; expected label_maps"):
        DicomOutputSettings(output_format="dicom")


def test_a_series_that_was_resampled_has_no_dicom_seg(tmp_path: Path, codes: Path) -> None:
    run = tiny_models.make_run(tmp_path / "run")
    series(tmp_path / "dicom/a", "A")
    (tmp_path / "dicom/a/014").unlink()
    series(tmp_path / "dicom/b", "B")
    settings = DicomOutputSettings(output_format="dicom_seg", segment_codes=codes)
    window, choice = PredictSettings(device="cpu", mirroring=False), SeriesChoice(resample=True)
    report = predict_cases(run, tmp_path / "dicom", tmp_path / "out", window, dicom_settings=settings, series=choice)
    assert report.done == ("B",)
    assert "was resampled while it was read, so no DICOM-SEG" in report.failed["A"]
    assert not (tmp_path / "out/A.nii.gz").exists()


def test_a_series_without_uids_is_refused_before_it_is_predicted(tmp_path: Path, codes: Path) -> None:
    run = tiny_models.make_run(tmp_path / "run")
    write_series(tmp_path / "dicom", np.zeros((20, 20, 19), np.int16), Modality="MR", FrameOfReferenceUID=None)
    settings = DicomOutputSettings(output_format="dicom_seg", segment_codes=codes)
    report = predict_cases(
        run, tmp_path / "dicom", tmp_path / "out", PredictSettings(device="cpu"), dicom_settings=settings
    )
    assert "lacks FrameOfReferenceUID, to which a DICOM-SEG refers. Export the series again" in report.failed["P1"]
    assert not (tmp_path / "out/P1.nii.gz").exists()


def test_an_image_that_is_written_box_by_box_has_a_dicom_seg_too(
    tmp_path: Path, codes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_models.make_run(tmp_path / "run")
    series(tmp_path / "dicom", "A", (60, 20, 19))
    predict(run, tmp_path / "dicom", tmp_path / "whole", segment_codes=codes)
    monkeypatch.setattr(Room, "of_machine", classmethod(lambda cls, scratch=None: cls(1, 1, scratch)))
    predict(run, tmp_path / "dicom", tmp_path / "out", segment_codes=codes)
    check(tmp_path / "out", "A", tmp_path / "dicom", {"organ": 1, "lesion": 2})
    one, other = (sitk.ReadImage(str(tmp_path / name / "A.nii.gz")) for name in ("whole", "out"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))
