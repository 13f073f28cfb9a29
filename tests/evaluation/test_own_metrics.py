"""Metrics of a user's own: where their values go, what they get, and every way in which one can be none."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.labels import Labels
from segflow.core.metrics import METRICS, Summary
from segflow.core.own_part import OwnPart
from segflow.evaluation.evaluate_cases import evaluate_cases
from segflow.evaluation.evaluate_settings import EvaluateSettings, ScoreSettings, overlap_only
from segflow.evaluation.own_metrics import own_scores
from segflow.evaluation.score_case import score_case
from segflow.evaluation.summary import read_summary, table_rows
from segflow.storage.stamps import StampedFolder

LABELS = Labels({"background": 0, "anterior": 1, "posterior": 2})
QUICK = EvaluateSettings(scores=overlap_only(), processes=0)


@dataclass
class Bias:
    """How much larger the prediction is than the reference, in mm³."""

    factor: float = 1.0

    def __call__(self, prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> float:
        voxels = int(prediction.sum()) - int(reference.sum())
        prediction[:] = False  # what a metric does to its arrays is nobody else's concern
        reference[:] = False
        return self.factor * voxels * float(np.prod(spacing))


def undefined(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> float:
    return math.nan if not reference.any() else math.inf


def text(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> Any:
    return "good"


def whether(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> Any:
    return np.bool_(True)


def failing(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> float:
    return 1.0 / int(np.zeros(1)[0])


def of_two(prediction: np.ndarray, reference: np.ndarray) -> float:
    return 0.0


def metric(call: Any, name: str = "bias") -> dict[str, OwnPart]:
    return {name: OwnPart(f"evaluation.metrics.{name}", call, {"_target_": "own.Bias", "factor": 1.0})}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for k in (1, 2, 3):
        for folder, seed in (("pred", k + 10), ("ref", k)):
            image = sitk.GetImageFromArray(np.random.default_rng(seed).integers(0, 3, (4, 5, 6)).astype(np.uint8))
            image.SetSpacing((1.0, 2.0, 3.0))
            (tmp_path / folder).mkdir(exist_ok=True)
            sitk.WriteImage(image, str(tmp_path / folder / f"case_{k}.nii.gz"))
    return tmp_path / "pred", tmp_path / "ref"


@pytest.mark.parametrize("processes", [0, 2])
def test_its_values_stand_beside_ours_everywhere(folders: tuple[Path, Path], processes: int) -> None:
    settings = EvaluateSettings(scores=overlap_only(), processes=processes)
    metrics = metric(Bias(2.0)) | metric(Bias(), "plain bias")
    summary = evaluate_cases(*folders, LABELS, settings, file_ending=".nii.gz", output=folders[0], metrics=metrics)
    for case in summary.cases:
        for scores in case.metrics.values():
            assert scores["plain bias"] == (scores["n_pred"] - scores["n_ref"]) * 6.0
            assert scores["bias"] == 2 * scores["plain bias"]
    content = json.loads((folders[0] / "summary.json").read_text())
    values = [case["metrics"]["2"]["bias"] for case in content["metric_per_case"]]
    assert content["mean"]["2"]["bias"] == pytest.approx(np.mean(values))
    with (folders[0] / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["bias"]) for row in rows if row["label"] == "2"] == values
    assert read_summary(folders[0] / "summary.json", ".nii.gz").mean == summary.mean
    header, *body = table_rows(summary, LABELS)
    assert header == ["label", "Dice", "IoU", "bias", "plain bias", "cases"]
    assert float(body[0][3].split()[0]) == pytest.approx(summary.mean[1]["bias"], abs=1e-3)


def test_our_scores_stay_what_they_are(folders: tuple[Path, Path]) -> None:
    settings = EvaluateSettings(processes=0)
    plain = evaluate_cases(*folders, LABELS, settings, file_ending=".nii.gz", output=folders[0])
    before = StampedFolder(folders[0]).stamp_of("summary.json")
    own = evaluate_cases(*folders, LABELS, settings, file_ending=".nii.gz", output=folders[0], metrics=metric(Bias()))
    after = StampedFolder(folders[0]).stamp_of("summary.json")
    for first, second in zip(plain.cases, own.cases, strict=True):
        for key, scores in first.metrics.items():
            assert {name: value for name, value in second.metrics[key].items() if name != "bias"} == scores
    assert before is not None
    assert after is not None
    assert "metrics" not in before["settings"]
    assert after["settings"]["metrics"] == {"bias": {"_target_": "own.Bias", "factor": 1.0}}


def test_every_name_of_ours_is_known_to_be_ours() -> None:
    maps = np.random.default_rng(0).integers(0, 3, (2, 4, 5, 6))
    scores = score_case(maps[0], maps[1], (1.0, 1.0, 1.0), LABELS, ScoreSettings())
    assert set(scores[1]) == set(METRICS)


def test_a_value_may_be_undefined_or_infinite(folders: tuple[Path, Path]) -> None:
    summary = evaluate_cases(*folders, LABELS, QUICK, file_ending=".nii.gz", metrics=metric(undefined))
    assert math.isinf(summary.mean[1]["bias"])
    maps = np.zeros((2, 2, 2, 2), dtype=np.int64)
    maps[0, 0, 0, 0] = 1
    scores = own_scores(metric(undefined), maps[0], maps[1], (1, 1, 1), LABELS)
    assert math.isnan(scores[1]["bias"])


def test_regions_are_united_and_ignored_voxels_are_background() -> None:
    labels = Labels.from_json({"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, [1, 2])
    reference, prediction = np.array([[[0, 1, 2, 3]]]), np.array([[[1, 1, 1, 2]]])
    scores = own_scores(metric(Bias()), prediction, reference, (1.0, 1.0, 1.0), labels)
    assert [own["bias"] for own in scores.values()] == [1.0, -1.0]


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (3.0, "float, which cannot be called"),
        (of_two, "of_two"),
        (lambda prediction, reference, spacing: 0.0, "processes that work on cases"),
    ],
)
def test_what_is_no_metric_is_refused_before_any_work(folders: tuple[Path, Path], call: Any, found: str) -> None:
    with pytest.raises(SegflowError, match=r"evaluation\.metrics\.bias") as caught:
        evaluate_cases(*folders, LABELS, QUICK, file_ending=".nii.gz", output=folders[0], metrics=metric(call))
    assert found in str(caught.value)
    assert not (folders[0] / "summary.json").exists()


@pytest.mark.parametrize("name", ["Dice", "hd95_mm", ""])
def test_a_name_of_ours_is_refused(folders: tuple[Path, Path], name: str) -> None:
    with pytest.raises(SegflowError, match="a name of its own"):
        evaluate_cases(*folders, LABELS, QUICK, file_ending=".nii.gz", metrics=metric(Bias(), name))


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (text, "found str, which is no number"),
        (whether, "which is no number"),
        (failing, r"found ZeroDivisionError: float division by zero \(test_own_metrics\.py, line \d+\)"),
    ],
)
def test_a_metric_that_breaks_its_contract_is_named_with_it(folders: tuple[Path, Path], call: Any, found: str) -> None:
    with pytest.raises(CaseErrors, match=found) as caught:
        evaluate_cases(*folders, LABELS, QUICK, file_ending=".nii.gz", metrics=metric(call))
    assert "case 'case_1': evaluation.metrics.bias: the part does not keep its contract" in str(caught.value)
    assert "(prediction, reference, spacing) → a number" in str(caught.value)


def test_a_summary_reads_back_with_the_metrics_that_it_has(folders: tuple[Path, Path]) -> None:
    summary = evaluate_cases(*folders, LABELS, QUICK, file_ending=".nii.gz", metrics=metric(Bias()))
    assert Summary.from_json(summary.to_json(), ".nii.gz") == summary
