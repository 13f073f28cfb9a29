"""A model whose plans name a normalisation of a user's own predicts with that one, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models

from segflow.core.errors import SegflowError
from segflow.core.own_part import OwnPart
from segflow.core.plans import OWN_NORMALIZATIONS, Plans
from segflow.inference.predict_cases import predict_cases
from segflow.inference.predict_settings import PredictSettings
from segflow.storage.folds import Fold

SETTINGS = PredictSettings(device="cpu")


@dataclass
class Shifted:
    """Far from what the network was made for, so that another label map comes out."""

    by: float = 0.0

    def __call__(self, image: np.ndarray, intensities: Any) -> np.ndarray:
        return image + self.by


def own(by: float) -> dict[str, OwnPart]:
    return {"SUV": OwnPart("normalization.SUV", Shifted(by), {"_target_": "own.Shifted", "by": by})}


def run_with(folder: Path, scheme: str, configurations: tuple[str, ...] = ("3d_fullres",), **extra: Any) -> Path:
    for name in configurations:
        run = tiny_models.make_run(folder, name)
        record = Fold(run / "fold_0").read_record()
        content = record.plans.to_json() | extra
        for configuration in content["configurations"].values():
            if "normalization_schemes" in configuration:
                configuration["normalization_schemes"] = [scheme]
        Fold(run / "fold_0").write_record(replace(record, plans=Plans.from_json(content)))
    return run


def labels(folder: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "a.nii.gz")))


def test_it_is_used_and_decides_whether_label_maps_are_made_anew(
    tmp_path: Path, write_images: Callable[..., Path]
) -> None:
    images = write_images("a")
    predict_cases(run_with(tmp_path / "plain", "NoNormalization"), images, tmp_path / "plain_out", SETTINGS)
    run = run_with(tmp_path, "SUV")  # as plans of nnU-Net are that name a class of somebody's own
    first = predict_cases(run, images, tmp_path / "out", SETTINGS, normalizations=own(0.0))
    assert first.done == ("a",)
    assert np.array_equal(labels(tmp_path / "out"), labels(tmp_path / "plain_out"))
    assert predict_cases(run, images, tmp_path / "out", SETTINGS, normalizations=own(0.0)).skipped == ("a",)
    with pytest.raises(SegflowError, match="normalizations"):
        predict_cases(run, images, tmp_path / "out", SETTINGS, normalizations=own(100.0))
    predict_cases(run, images, tmp_path / "other", SETTINGS, normalizations=own(100.0))
    assert not np.array_equal(labels(tmp_path / "other"), labels(tmp_path / "out"))


@pytest.mark.parametrize("configurations", [("3d_fullres",), ("3d_lowres", "3d_cascade_fullres")])
def test_without_it_or_with_another_no_image_is_read(tmp_path: Path, configurations: tuple[str, ...]) -> None:
    described = {OWN_NORMALIZATIONS: {"SUV": {"_target_": "own.Shifted", "by": 1.0}}}
    run = run_with(tmp_path, "SUV", configurations, **described)
    for normalizations, message in (
        (None, r"'SUV', a part of one's own: _target_=own\.Shifted, by=1\.0"),
        (own(2.0), r"normalization\.SUV: the plans were made with another normalisation"),
    ):
        with pytest.raises(SegflowError, match=message):
            predict_cases(run, tmp_path / "nowhere", tmp_path / "out", SETTINGS, normalizations=normalizations)


def test_a_cascade_uses_it_in_both_stages(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    run = run_with(tmp_path, "SUV", ("3d_lowres", "3d_cascade_fullres"))
    report = predict_cases(run, write_images("a"), tmp_path / "out", SETTINGS, normalizations=own(0.0))
    assert report.ok
    assert report.done == ("a",)
