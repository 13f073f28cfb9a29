"""Folders in, summary out: nnU-Net's keys, its NaN rules, and everything that may be wrong with folders."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.labels_present import LabelsPresent
from segflow.core.metrics import Summary
from segflow.evaluation.evaluate_cases import evaluate_cases, is_scored
from segflow.evaluation.evaluate_settings import EvaluateSettings, ScoreSettings, overlap_only
from segflow.evaluation.summary import read_scores_of, read_summary, table_rows
from segflow.execution.progress import ProgressEvent

LABELS = Labels({"background": 0, "anterior": 1, "posterior": 2})
REGIONS = Labels.from_json({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2])
QUICK = EvaluateSettings(scores=overlap_only(), processes=0)


def _write(file: Path, label: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), origin: float = 0.0) -> None:
    image = sitk.GetImageFromArray(label.astype(np.uint8))
    image.SetSpacing(spacing)
    image.SetOrigin((origin, 0.0, 0.0))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


def _label(seed: int, highest: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, highest + 1, (4, 5, 6))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for k, highest in ((1, 2), (2, 1), (3, 2)):  # the second case lacks label 2 in both maps
        _write(tmp_path / "ref" / f"case_{k}.nii.gz", _label(k, highest))
        _write(tmp_path / "pred" / f"case_{k}.nii.gz", _label(k + 10, highest))
    return tmp_path / "pred", tmp_path / "ref"


def test_the_summary_has_nnunets_keys_and_means(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    summary = evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".nii.gz", output=pred)
    text = (pred / "summary.json").read_text()
    content = json.loads(text)
    assert list(content) == ["foreground_mean", "mean", "metric_per_case"]
    names = {"Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"}
    assert set(content["foreground_mean"]) == names
    assert list(content["foreground_mean"]) == sorted(content["foreground_mean"])
    assert set(content["mean"]) == {"1", "2"}
    first = content["metric_per_case"][0]
    assert first["prediction_file"] == str(pred / "case_1.nii.gz")
    assert first["reference_file"] == str(ref / "case_1.nii.gz")
    assert isinstance(first["metrics"]["1"]["TP"], int)
    assert math.isnan(content["metric_per_case"][1]["metrics"]["2"]["Dice"])
    assert "NaN" in text
    by_case = [case["metrics"]["2"]["Dice"] for case in content["metric_per_case"]]
    assert content["mean"]["2"]["Dice"] == pytest.approx((by_case[0] + by_case[2]) / 2)
    assert content["foreground_mean"]["Dice"] == pytest.approx(
        (content["mean"]["1"]["Dice"] + content["mean"]["2"]["Dice"]) / 2
    )
    assert summary.score == pytest.approx(content["foreground_mean"]["Dice"])


def test_a_label_that_no_case_holds_makes_the_foreground_mean_nan_but_not_the_score(tmp_path: Path) -> None:
    _write(tmp_path / "ref" / "a.nii.gz", _label(1, 1))
    _write(tmp_path / "pred" / "a.nii.gz", _label(2, 1))
    summary = evaluate_cases(tmp_path / "pred", tmp_path / "ref", LABELS, QUICK, file_ending=".nii.gz")
    assert math.isnan(summary.foreground_mean["Dice"])
    assert summary.score == summary.mean[1]["Dice"]


def test_what_is_written_is_read_back(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    summary = evaluate_cases(pred, ref, REGIONS, EvaluateSettings(processes=0), file_ending=".nii.gz", output=pred)
    assert set(json.loads((pred / "summary.json").read_text())["mean"]) == {"(1, 2)", "2"}
    again = read_summary(pred / "summary.json", ".nii.gz")
    assert [case.case_id for case in again.cases] == ["case_1", "case_2", "case_3"]
    np.testing.assert_equal(_plain(again), _plain(summary))


def test_keys_that_earlier_versions_wrote_for_a_region_of_one_label_are_read(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    summary = evaluate_cases(pred, ref, REGIONS, QUICK, file_ending=".nii.gz", output=pred)
    file = pred / "summary.json"
    file.write_text(file.read_text().replace('"2":', '"(2,)":'))
    assert read_summary(file, ".nii.gz").keys == summary.keys == REGIONS.foreground_keys == ((1, 2), 2)


def test_values_that_are_no_labels_are_named_with_their_side_and_cases(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    pred, ref = folders
    evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".nii.gz")
    assert not caplog.records
    for number in (1, 3):
        _write(pred / f"case_{number}.nii.gz", 255 * (_label(number) > 0))
    _write(ref / "case_2.nii.gz", 7 * (_label(2) > 0))
    summary = evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".nii.gz")
    assert len(summary.cases) == 3
    ours, theirs = (record.message for record in caplog.records)
    assert "2 cases: the prediction holds values that are no labels" in ours
    assert "found 255 in case_1, case_3; expected only [0, 1, 2]. If 255 means 1, name both" in ours
    assert "1 case: the reference holds values that are no labels" in theirs
    assert "found 7 in case_2" in theirs


def test_references_of_0_and_255_are_mended_in_dataset_json(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    pred, ref = folders
    _write(ref / "case_1.nii.gz", 255 * (_label(1) > 0))
    evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".nii.gz")
    assert "found 255 in case_1" in caplog.text
    assert "name both in dataset.json: [1, 255]" in caplog.text


def test_files_that_are_not_scored_are_named(folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    pred, ref = folders
    _write(pred / "case_4.nii", _label(1))
    (ref / "case_5.nii.gz").symlink_to("../.git/annex/objects/case_5.nii.gz")
    assert len(evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".nii.gz").cases) == 3
    ours, theirs = (record.message for record in caplog.records)
    assert ours == f"{pred}: 1 file is passed over. Other endings than .nii.gz: 1 (case_4.nii)."
    assert theirs.startswith(f"{ref}: 1 file is passed over. Links to nowhere: 1 (case_5.nii.gz). Fetch")


def _plain(summary: Summary) -> object:
    return json.loads(json.dumps(summary.to_json(), sort_keys=True))


def test_the_csv_has_a_row_for_each_case_and_label(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    summary = evaluate_cases(pred, ref, LABELS, EvaluateSettings(processes=0), file_ending=".nii.gz", output=pred)
    with (pred / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["label"], row["name"]) for row in rows[:2]] == [
        ("case_1", "1", "anterior"),
        ("case_1", "2", "posterior"),
    ]
    assert len(rows) == 6
    assert float(rows[0]["hd95_mm"]) == summary.cases[0].metrics[1]["hd95_mm"]


def test_the_table_names_labels_and_gives_intervals(folders: tuple[Path, Path]) -> None:
    summary = evaluate_cases(*folders, LABELS, EvaluateSettings(processes=0), file_ending=".nii.gz")
    rows = table_rows(summary, LABELS)
    assert rows[0][:2] == ["label", "Dice"]
    assert [row[0] for row in rows[1:]] == ["anterior", "posterior", "mean"]
    assert rows[1][1].startswith(f"{summary.mean[1]['Dice']:.3f} [")
    assert [row[-1] for row in rows[1:]] == ["3", "2", "3"]
    assert len({len(row) for row in rows}) == 1


def test_the_table_says_how_many_cases_have_no_distance(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    _write(pred / "case_1.nii.gz", np.minimum(_label(11), 1))
    rows = table_rows(evaluate_cases(pred, ref, LABELS, EvaluateSettings(processes=0), file_ending=".nii.gz"), LABELS)
    assert rows[2][rows[0].index("HD95 [mm]")] == "inf (1 of 2)"


@pytest.mark.parametrize("processes", [0, 2])
def test_one_bad_case_is_named_and_the_others_are_done(folders: tuple[Path, Path], processes: int) -> None:
    pred, ref = folders
    _write(pred / "case_1.nii.gz", np.zeros((4, 5, 7)))
    (pred / "case_2.nii.gz").write_bytes(b"no image")
    _write(pred / "case_4.nii.gz", _label(4))
    _write(ref / "case_5.nii.gz", _label(5))
    events: list[ProgressEvent] = []
    settings = EvaluateSettings(scores=overlap_only(), processes=processes)
    summary = evaluate_cases(pred, ref, LABELS, settings, file_ending=".nii.gz", output=pred, progress=events.append)
    assert [case.case_id for case in summary.cases] == ["case_3"]
    assert list(summary.failed) == ["case_1", "case_2", "case_4", "case_5"]
    assert "shape" in summary.failed["case_1"]
    assert str(pred / "case_1.nii.gz") in summary.failed["case_1"]
    assert "case_2.nii.gz" in summary.failed["case_2"]
    assert f"no reference {ref / 'case_4.nii.gz'}" in summary.failed["case_4"]
    assert f"no prediction {pred / 'case_5.nii.gz'}" in summary.failed["case_5"]
    assert "evaluation.partial=true" in summary.failed["case_5"]
    assert all(f"case '{case_id}'" in text for case_id, text in summary.failed.items())
    assert set(json.loads((pred / "summary.json").read_text())["failed"]) == set(summary.failed)
    assert (events[0].done, events[-1].done, events[-1].total) == (0, 3, 3)


def test_references_without_prediction_are_passed_over_where_that_is_meant(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    _write(ref / "case_5.nii.gz", _label(5))
    settings = EvaluateSettings(scores=QUICK.scores, partial=True, processes=0)
    assert evaluate_cases(pred, ref, LABELS, settings, file_ending=".nii.gz").failed == {}


@pytest.mark.parametrize(("change", "word"), [({"spacing": (1.0, 1.0, 2.0)}, "spacing"), ({"origin": 20.0}, "origin")])
def test_maps_on_different_grids_are_refused(folders: tuple[Path, Path], change: dict, word: str) -> None:
    pred, ref = folders
    _write(pred / "case_3.nii.gz", _label(3), **change)
    summary = evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".nii.gz")
    assert word in summary.failed["case_3"]
    assert len(summary.cases) == 2


def test_folders_that_cannot_be_evaluated_say_why(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, ref = folders
    (tmp_path / "empty").mkdir()
    _write(tmp_path / "other" / "unrelated.nii.gz", _label(1))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "case_1.nii.gz").write_bytes(b"x")
    for folder, words in (
        ("nowhere", "there is no folder"),
        ("empty", "no file in"),
        ("other", "unrelated"),
        ("damaged", "case_1"),
    ):
        with pytest.raises(SegflowError, match=words):
            evaluate_cases(tmp_path / folder, ref, LABELS, QUICK, file_ending=".nii.gz")
    with pytest.raises(SegflowError, match=r"\.nii\.gz"):
        evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".mha")


def test_evaluation_needs_no_torch() -> None:
    code = "import sys, segflow.evaluation.evaluate_cases; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scores_know_which_label_maps_they_are_of(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".nii.gz", output=pred)
    assert read_scores_of(pred, ".nii.gz").score == read_summary(pred / "summary.json", ".nii.gz").score
    _write(pred / "case_2.nii.gz", _label(99))
    with pytest.raises(SegflowError, match=r"case 'case_2'.*another label map"):
        read_scores_of(pred, ".nii.gz")
    evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".nii.gz", output=pred)
    assert read_scores_of(pred, ".nii.gz").cases
    (pred / ".segflow" / "summary.json.json").unlink()  # as an earlier version or nnU-Net writes it
    assert read_scores_of(pred, ".nii.gz").cases


def test_an_evaluation_that_fails_leaves_no_scores_of_before(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".nii.gz", output=pred)
    for file in pred.glob("*.nii.gz"):
        file.write_bytes(b"no image")
    with pytest.raises(SegflowError):
        evaluate_cases(pred, ref, LABELS, QUICK, file_ending=".nii.gz", output=pred)
    assert not (pred / "summary.json").exists()
    assert not (pred / "metrics.csv").exists()


@pytest.mark.parametrize("scores", [overlap_only(), ScoreSettings(both_empty="one")])
def test_a_label_that_was_not_drawn_has_no_scores(folders: tuple[Path, Path], scores: ScoreSettings) -> None:
    pred, ref = folders
    _write(ref / "case_2.nii.gz", np.minimum(_label(2), 1))
    _write(pred / "case_2.nii.gz", _label(12))  # the prediction has label 2, which is no false positive
    partial = replace(LABELS, present=LabelsPresent({"case_2": frozenset({1})}))
    settings = EvaluateSettings(scores=scores, processes=0)
    told = evaluate_cases(pred, ref, partial, settings, file_ending=".nii.gz", output=pred)
    whole = evaluate_cases(pred, ref, LABELS, settings, file_ending=".nii.gz")
    assert told.cases[1].metrics[1] == pytest.approx(whole.cases[1].metrics[1], nan_ok=True)
    assert all(math.isnan(value) for value in told.cases[1].metrics[2].values())
    others = [case.metrics[2]["Dice"] for case in whole.cases if case.case_id != "case_2"]
    assert told.mean[2]["Dice"] == pytest.approx(np.mean(others))
    assert read_summary(pred / "summary.json").cases[1].metrics[1] == pytest.approx(
        told.cases[1].metrics[1], nan_ok=True
    )
    assert not is_scored(pred, ref, LABELS, settings, file_ending=".nii.gz", output=pred)
