"""Label maps of real images of every kind lie exactly where their images lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models

from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings, SlidingWindowSettings
from segflow.inference.predictor import Predictor

# Dataset, reader, file ending, channels, spacing in mm to which the tiny network sees it
KINDS = [
    ("Dataset004_Hippocampus", "SimpleITKIO", ".nii.gz", 1, 1.0),
    ("Dataset027_ACDC", "SimpleITKIO", ".nii.gz", 1, 5.0),
    ("Dataset140_CTSpleen1", "NibabelIO", ".nii.gz", 1, 8.0),
    ("Dataset142_TotalSegMR", "NibabelIOWithReorient", ".nii.gz", 1, 8.0),
    ("Dataset143_ProstateX3ch", "SimpleITKIO", ".nii.gz", 3, 4.0),
    ("Dataset144_BrainNrrd", "SimpleITKIO", ".nrrd", 1, 6.0),
    ("Dataset145_SpinalCordGeom", "SimpleITKIO", ".nii.gz", 1, 3.0),
    ("Dataset145_SpinalCordGeom", "NibabelIOWithReorient", ".nii.gz", 1, 3.0),
    ("Dataset146_CTSlab3", "SimpleITKIO", ".mha", 1, 2.0),
    ("Dataset123_Nuclei", "NaturalImage2DIO", ".png", 3, 4.0),
]


@pytest.mark.parametrize(("dataset", "reader", "ending", "channels", "spacing"), KINDS)
def test_label_map_overlays_its_image(
    tmp_path: Path, test_data: Path, dataset: str, reader: str, ending: str, channels: int, spacing: float
) -> None:
    name = "2d" if ending == ".png" else "3d_fullres"
    run = tiny_models.make_run(tmp_path, name, reader=reader, ending=ending, channels=channels, spacing=spacing)
    cases = sorted({file.name[: -len(ending) - 5] for file in (test_data / dataset / "imagesTr").glob(f"*{ending}")})
    images = test_data / dataset / "imagesTr"
    files = [file for case in cases[:2] for file in sorted(images.glob(f"{case}_*{ending}"))]
    report = predict_cases(run, files, tmp_path / "out", PredictSettings(device="cpu", mirroring=False))
    predictor = Predictor.load(run, device="cpu", settings=SlidingWindowSettings(mirroring=False))
    assert report.failed == {}
    assert report.done == tuple(cases[:2])
    for case in cases[:2]:
        image = sitk.ReadImage(str(images / f"{case}_0000{ending}"))
        label = sitk.ReadImage(str(tmp_path / "out" / f"{case}{ending}"))
        assert label.GetSize() == image.GetSize()
        assert label.GetNumberOfComponentsPerPixel() == 1
        assert label.GetPixelID() == sitk.sitkUInt8
        assert np.allclose(label.GetSpacing(), image.GetSpacing(), rtol=1e-6)
        assert np.allclose(label.GetOrigin(), image.GetOrigin(), rtol=1e-6, atol=1e-3)
        assert np.allclose(label.GetDirection(), image.GetDirection(), atol=1e-6)
        if channels == 1:  # in memory the same image gives the same labels
            inside = predictor.predict(image)
            assert np.mean(sitk.GetArrayFromImage(inside) == sitk.GetArrayFromImage(label)) > 0.9999
