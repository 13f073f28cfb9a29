"""Series of DICOM are predicted like the same images as NIfTI."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_models
from dicom_files import plain, save, write_series

from segflow.core.errors import SegflowError
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.storage.dicom.choose_series import SeriesChoice
from segflow.storage.dicom.read_series import read_series
from segflow.storage.dicom.series import find_series
from segflow.storage.image_formats.simpleitk_io import SimpleITKIO


def voxels(seed: int = 0, size: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, (size, size, size)).astype(np.int16)


def series(folder: Path, seed: int, patient: str, description: str) -> Path:
    ids = {"StudyInstanceUID": f"1.{ord(patient)}", "SeriesInstanceUID": f"1.{ord(patient)}.{seed}"}
    return write_series(folder, voxels(seed), Modality="MR", PatientID=patient, SeriesDescription=description, **ids)


def settings() -> PredictSettings:
    return PredictSettings(device="cpu", mirroring=False)


def test_patients_are_predicted_as_their_nifti_images_are(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path / "run")
    for seed, patient in enumerate("AB"):
        series(tmp_path / "dicom" / f"x{seed}" / "deep", seed, patient, "T1")
    for one in find_series(tmp_path / "dicom"):
        file = tmp_path / "nifti" / f"{one.patient_id}_0000.nii.gz"
        file.parent.mkdir(exist_ok=True)
        SimpleITKIO().write_file(*read_series(one), file)
    report = predict_cases(run, tmp_path / "dicom", tmp_path / "out", settings())
    assert (report.done, report.ok) == (("A", "B"), True)
    predict_cases(run, tmp_path / "nifti", tmp_path / "expected", settings())
    for name in ("A.nii.gz", "B.nii.gz"):
        made, expected = (nibabel.load(tmp_path / folder / name) for folder in ("out", "expected"))
        np.testing.assert_array_equal(made.get_fdata(), expected.get_fdata())
        np.testing.assert_array_equal(made.affine, expected.affine)
        assert made.get_fdata().any()
    assert predict_cases(run, tmp_path / "dicom", tmp_path / "out", settings()).skipped == ("A", "B")
    series(tmp_path / "dicom" / "x1" / "deep", 7, "B", "T1 again")
    for file in (tmp_path / "dicom" / "x1" / "deep").iterdir():  # the files of seed 1 were replaced
        assert file.stat().st_size
    assert predict_cases(run, tmp_path / "dicom", tmp_path / "out", settings()).done == ("B",)


def test_channels_are_found_by_description_or_pattern(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path / "run", channels=2)
    for seed, name in enumerate(("axial mr1", "sagittal MR0 post", "another")):
        series(tmp_path / "dicom" / name, seed, "A", name)
    assert predict_cases(run, tmp_path / "dicom", tmp_path / "out", settings()).ok
    images = [nibabel.load(tmp_path / f"out/dicom_images/A_000{k}.nii.gz").get_fdata().T for k in (0, 1)]
    np.testing.assert_array_equal(images, [voxels(1), voxels(0)])
    choice = SeriesChoice({"MR1": "another", "MR0": ["nothing", "*POST"]})
    assert predict_cases(run, tmp_path / "dicom", tmp_path / "chosen", settings(), series=choice).ok
    images = [nibabel.load(tmp_path / f"chosen/dicom_images/A_000{k}.nii.gz").get_fdata().T for k in (0, 1)]
    np.testing.assert_array_equal(images, [voxels(1), voxels(2)])
    with pytest.raises(SegflowError, match=r"other channels than the model has; found T1; expected MR0, MR1"):
        predict_cases(run, tmp_path / "dicom", tmp_path / "x", settings(), series=SeriesChoice({"T1": "*"}))


def test_a_bad_patient_does_not_stop_the_others(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path / "run")
    series(tmp_path / "dicom/a", 0, "A", "T1")
    (tmp_path / "dicom/a/014").unlink()
    cut = series(tmp_path / "dicom/b", 1, "B", "T1") / f"{19 * 7 % 101:03d}"  # its last slice
    cut.write_bytes(cut.read_bytes()[:420])
    series(tmp_path / "dicom/c1", 2, "C", "T1")
    series(tmp_path / "dicom/c2", 3, "C", "T1 late")
    report = predict_cases(run, tmp_path / "dicom", tmp_path / "out", settings())
    assert report.done == ("B",)
    assert "lacks 1 slice" in report.failed["A"]
    assert "DICOM without an image" in report.failed[str(cut)]
    cut.unlink()
    assert "fits several series" in report.failed["C"]
    report = predict_cases(
        run, tmp_path / "dicom", tmp_path / "again", settings(), series=SeriesChoice("T1", resample=True)
    )
    assert (report.done, report.ok) == (("A", "B", "C"), True)


def test_what_is_no_image_of_the_model_is_refused(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path / "run")
    save(plain(0, Modality="SEG"), tmp_path / "dicom/seg")
    with pytest.raises(SegflowError, match="no series of images"):
        predict_cases(run, tmp_path / "dicom", tmp_path / "out", settings())
    (tmp_path / "images").mkdir()
    with pytest.raises(SegflowError, match="are for DICOM"):
        predict_cases(run, tmp_path / "images", tmp_path / "out", settings(), series=SeriesChoice("x"))


def test_files_of_a_series_are_an_input_too(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path / "run")
    folder = series(tmp_path / "dicom", 0, "A", "T1")
    assert predict_cases(run, sorted(folder.iterdir()), tmp_path / "out", settings()).done == ("A",)
    with pytest.raises(SegflowError, match=r"no series is a volume; found series 'T1' .* has one slice only"):
        predict_cases(run, folder / "014", tmp_path / "one", settings())


def test_dicom_beside_images_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tiny_models.make_run(tmp_path / "run")
    series(tmp_path / "both" / "below", 0, "A", "T1")
    SimpleITKIO().write_file(*read_series(find_series(tmp_path / "both")[0]), tmp_path / "both" / "b_0000.nii.gz")
    assert predict_cases(run, tmp_path / "both", tmp_path / "out", settings()).done == ("b",)
    assert "holds images such as b_0000.nii.gz, which are predicted, and DICOM, which is not" in caplog.text
