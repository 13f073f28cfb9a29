"""Whatever segflow makes of a NIfTI image says of its place what the image says."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_models

from segflow.core.postprocessing import PostprocessingChoice
from segflow.inference.ensemble_cases import ensemble_cases
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.inference.predictor import Predictor
from segflow.postprocessing.apply_postprocessing import apply_postprocessing

QFORM = np.array([[0.0, 0, -1000, 40], [900, 0, 0, 20], [0, 1100, 0, 30], [0, 0, 0, 1]])
SFORM = QFORM @ np.array([[1, 0, 0, 30], [0, -1, 0, 2], [0, 0, 1, -7], [0, 0, 0, 1.0]])
READERS = ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"]


def place_of(file: Path) -> list[object]:
    header = nibabel.load(file).header
    names = [name for name in header if name.startswith(("qform", "sform", "quatern", "qoffset", "srow", "xyzt"))]
    return [header["pixdim"][:4].tolist(), *(header[name].tolist() for name in names)]


@pytest.mark.parametrize(("codes", "unit"), [((4, 1), "micron"), ((0, 0), "micron"), ((0, 2), "mm")])
@pytest.mark.parametrize("reader", READERS)
def test_every_map_keeps_both_forms_their_codes_and_the_unit(
    tmp_path: Path, reader: str, codes: tuple[int, int], unit: str
) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(20, 18, 16)).astype(np.float32), None)
    image.set_qform(QFORM / (1 if unit == "micron" else 1000), codes[1])
    image.set_sform(SFORM / (1 if unit == "micron" else 1000), codes[0])
    image.header["pixdim"][1:4] = np.array([900, 1100, 1000]) / (1 if unit == "micron" else 1000)
    image.header.set_xyzt_units(unit)
    (tmp_path / "images").mkdir()
    nibabel.save(image, tmp_path / "images" / "a_0000.nii.gz")
    run = tiny_models.make_run(tmp_path, reader=reader)
    settings = PredictSettings(device="cpu", mirroring=False, probabilities=True)
    assert predict_cases(run, tmp_path / "images", tmp_path / "out", settings).ok
    labels = Predictor.load(run, device="cpu").labels
    assert ensemble_cases([tmp_path / "out"] * 2, tmp_path / "both", labels, file_ending=".nii.gz", reader=reader).ok
    choice = PostprocessingChoice((), before={}, after={})
    apply_postprocessing(tmp_path / "both", choice, tmp_path / "post", file_ending=".nii.gz", reader=reader)
    wanted = place_of(tmp_path / "images" / "a_0000.nii.gz")
    for made in ("out/a.nii.gz", "out/probabilities/a_0001.nii.gz", "both/a.nii.gz", "post/a.nii.gz"):
        assert place_of(tmp_path / made) == wanted, made
        assert nibabel.load(tmp_path / made).shape == image.shape


def test_a_label_map_of_a_plane_keeps_height_and_thickness(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32), None)
    image.set_qform(SFORM, 1)
    image.set_sform(SFORM, 4)
    image.header.set_xyzt_units("micron")
    (tmp_path / "images").mkdir()
    nibabel.save(image, tmp_path / "images" / "a_0000.nii")
    run = tiny_models.make_run(tmp_path, "2d", reader="NibabelIO", ending=".nii")
    assert predict_cases(run, tmp_path / "images", tmp_path / "out", PredictSettings(device="cpu")).ok
    assert place_of(tmp_path / "out" / "a.nii") == place_of(tmp_path / "images" / "a_0000.nii")
    assert nibabel.load(tmp_path / "out" / "a.nii").shape == (40, 30)
    inside = Predictor.load(run, device="cpu").predict(nibabel.load(tmp_path / "images" / "a_0000.nii"))
    np.testing.assert_array_equal(
        np.asarray(inside.dataobj), np.asarray(nibabel.load(tmp_path / "out" / "a.nii").dataobj)
    )
