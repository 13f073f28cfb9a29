"""Label maps that do not fit into memory: scored slab by slab, or refused with the number."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.errors import CaseErrors
from segflow.core.labels import Labels
from segflow.core.metrics import Summary
from segflow.core.own_part import OwnPart
from segflow.evaluation import label_maps
from segflow.evaluation.evaluate_cases import EvaluateSettings, evaluate_cases
from segflow.evaluation.evaluate_settings import ScoreSettings
from segflow.evaluation.label_maps import ArrayMap
from segflow.evaluation.score_case import score_case, score_maps
from segflow.execution.machine import GB, held_bytes, memory_limited

LABELS = Labels({"background": 0, "liver": 1, "tumour": 2, "vessel": 70})
MIB = 2**20


def volume(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> float:
    return float(prediction.sum())


def _write(array: np.ndarray, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.8, 0.8, 2.0))
    sitk.WriteImage(image, str(file))


def _map(shape: tuple[int, int, int]) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[5:60, 10:40, 20:50] = 1
    array[20:30, 15:30, 25:35] = 2
    array[55:80, 30:60, 60:90] = 70
    array[70, 3, 3] = 9  # no label
    return array


def _evaluated(folder: Path, ending: str = ".nii.gz", metrics: dict[str, OwnPart] | None = None) -> Summary:
    settings = EvaluateSettings(processes=0)
    places = folder / "predicted", folder / "expected", LABELS, settings
    return evaluate_cases(*places, file_ending=ending, metrics=metrics)


def _limit(mib: int) -> float:
    return (held_bytes() + mib * MIB) / GB


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_case_beyond_the_limit_has_the_same_scores(tmp_path: Path, ending: str) -> None:
    array = _map((130, 150, 150))  # 12 bytes for each voxel are 33 MiB
    _write(array, tmp_path / "expected" / f"a{ending}")
    _write(np.roll(array, 1, axis=2), tmp_path / "predicted" / f"a{ending}")
    whole = _evaluated(tmp_path, ending)
    with memory_limited(_limit(24)):
        in_slabs = _evaluated(tmp_path, ending)
    assert in_slabs.cases == whole.cases
    assert in_slabs.cases[0].metrics[70]["hd95_mm"] == pytest.approx(0.8)


@pytest.mark.parametrize("ignore", [None, 2])
def test_slabs_of_any_thickness_have_the_same_scores(monkeypatch: pytest.MonkeyPatch, ignore: int | None) -> None:
    labels = Labels({"background": 0, "liver": 1, "vessel": 70, "ignore": 2}) if ignore else LABELS
    reference = _map((82, 61, 91))
    prediction = np.roll(reference, (1, 2, 0), (0, 1, 2))
    prediction[:, ::7] = 0
    expected = score_case(reference, prediction, (3.0, 0.7, 1.1), labels, ScoreSettings(lesion_overlap=0.3))
    for voxels in (1, 61 * 91 * 7, 1 << 30):
        monkeypatch.setattr(label_maps, "SLAB_VOXELS", voxels)
        maps = ArrayMap(reference), ArrayMap(prediction)
        found, counts = score_maps(*maps, (3.0, 0.7, 1.1), labels, ScoreSettings(lesion_overlap=0.3))
        assert found == expected
        assert counts.values_of_reference() == [0, 1, 2, 9, 70]


def test_a_label_that_does_not_fit_is_refused_with_the_number_and_others_are_scored(tmp_path: Path) -> None:
    small, large = _map((90, 70, 91)), np.ones((210, 220, 220), np.uint8)
    for folder in ("expected", "predicted"):
        _write(small, tmp_path / folder / "a.nii")
        _write(large, tmp_path / folder / "b.nii")
    with memory_limited(_limit(40)):
        summary = _evaluated(tmp_path, ".nii")
    assert [case.case_id for case in summary.cases] == ["a"]
    message = summary.failed["b"]
    assert re.match(
        r"case 'b': label liver needs \d\S* GB of memory; found a box of 210 × 220 × 220 voxels; expected at most \d",
        message,
    )
    assert message.endswith("Raise max_memory_gb, or use a machine with more memory.")


def test_what_can_only_be_read_whole_says_so(tmp_path: Path) -> None:
    array = _map((130, 150, 150))
    for folder in ("expected", "predicted"):
        _write(array, tmp_path / folder / "a.mha")
    with memory_limited(_limit(24)), pytest.raises(CaseErrors, match=r"a\.mha can only be read as a whole"):
        _evaluated(tmp_path, ".mha")


def test_a_metric_of_ones_own_needs_the_whole_maps(tmp_path: Path) -> None:
    array = _map((130, 150, 150))
    for folder in ("expected", "predicted"):
        _write(array, tmp_path / folder / "a.nii")
    own = {"volume": OwnPart("metrics.volume", volume)}
    with (
        memory_limited(_limit(24)),
        pytest.raises(CaseErrors, match=r"case 'a': this case needs \d.* 2,925,000 voxels"),
    ):
        _evaluated(tmp_path, ".nii", own)
