"""Scores of parts, made by other processes, become the summary that one process makes."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.case_part import divided, part_of
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.labels import Labels
from segflow.core.metrics import Summary
from segflow.evaluation.evaluate_cases import evaluate_cases
from segflow.evaluation.evaluate_settings import EvaluateSettings

REGIONS = Labels.from_json({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2])
LABELS = Labels({"background": 0, "anterior": 1, "posterior": 2})


def write(file: Path, seed: int, highest: int = 2) -> None:
    label = np.random.default_rng(seed).integers(0, highest + 1, (6, 9, 8)).astype(np.uint8)
    image = sitk.GetImageFromArray(label)
    image.SetSpacing((0.7, 0.8, 1.9))
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(file))


class Folders:
    """Predictions and references of five cases, one of them without a reference, one without label 2."""

    def __init__(self, place: Path) -> None:
        self.prediction, self.reference = place / "pred", place / "ref"
        for k in range(5):
            highest = 1 if k == 1 else 2
            write(self.prediction / f"case_{k}.nii.gz", k + 10, highest)
            if k != 4:
                write(self.reference / f"case_{k}.nii.gz", k, highest)

    def evaluate(self, output: Path | None, *, labels: Labels = LABELS, part: str = "0/1", **options: Any) -> Summary:
        settings = EvaluateSettings(processes=0, part=part)
        return evaluate_cases(
            self.prediction, self.reference, labels, settings, file_ending=".nii.gz", output=output, **options
        )


class Jobs:
    """Scores the parts of the cases one after another, as jobs do, and may leave some of them."""

    def __init__(self, folders: Folders, output: Path, left: Collection[str] = (), **options: Any) -> None:
        self.folders, self.output, self.left, self.options = folders, output, left, options
        self.asked: list[str] = []

    def __call__(self, names: Sequence[str], missing: Collection[str]) -> Mapping[str, str]:
        self.asked = list(missing)
        failed: dict[str, str] = {}
        for part in divided("0/1", 2):
            if part not in self.left and set(part_of(names, part)) & set(missing):
                failed |= self.folders.evaluate(self.output, part=part, **self.options).failed
        return failed


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def results(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in output.iterdir() if file.is_file()}


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_other_processes_make_the_summary_of_one(folders: Folders, tmp_path: Path, labels: Labels) -> None:
    alone = folders.evaluate(tmp_path / "one", labels=labels)
    shared = folders.evaluate(tmp_path / "out", labels=labels, elsewhere=Jobs(folders, tmp_path / "out", labels=labels))
    assert results(tmp_path / "out") == results(tmp_path / "one")
    assert sorted(results(tmp_path / "out")) == ["metrics.csv", "summary.json"]
    assert shared.failed == alone.failed
    assert [*alone.failed] == ["case_4"]
    stamps = [json.loads((tmp_path / k / ".segflow" / "summary.json.json").read_text()) for k in ("one", "out")]
    assert [stamp.pop("outputs").keys() for stamp in stamps] == [{"summary.json", "metrics.csv"}] * 2
    assert stamps[0] == stamps[1]


def test_kept_scores_are_removed_when_all_cases_are_in_the_summary(folders: Folders, tmp_path: Path) -> None:
    out, kept = tmp_path / "out", tmp_path / "out" / ".segflow" / "scores"
    folders.evaluate(out, elsewhere=Jobs(folders, out))
    assert kept.is_dir()  # one case failed
    write(folders.reference / "case_4.nii.gz", 4)
    jobs = Jobs(folders, out)
    summary = folders.evaluate(out, elsewhere=jobs)
    assert (jobs.asked, len(summary.cases)) == (["case_4"], 5)
    assert not kept.exists()
    folders.evaluate(tmp_path / "one")
    assert results(out) == results(tmp_path / "one")


def test_a_part_that_is_lost_is_named_and_scored_later(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = folders.evaluate(out, elsewhere=Jobs(folders, out, left=["1/2"]))
    assert [*summary.failed] == ["case_1", "case_3", "case_4"]
    assert "case 'case_1': its process ended without making it" in summary.failed["case_1"]
    write(folders.prediction / "case_0.nii.gz", 99)
    jobs = Jobs(folders, out)
    folders.evaluate(out, elsewhere=jobs)
    assert jobs.asked == ["case_0", "case_1", "case_3"]
    folders.evaluate(tmp_path / "one")
    assert results(out) == results(tmp_path / "one")


def test_parts_by_hand_and_then_the_summary(folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "out"
    image = sitk.ReadImage(str(folders.prediction / "case_3.nii.gz"))
    image[0, 0, 0] = 9
    sitk.WriteImage(image, str(folders.prediction / "case_3.nii.gz"))
    for part in divided("0/1", 7):
        assert not folders.evaluate(out, part=part).failed
        assert not (out / "summary.json").exists()
    with caplog.at_level(logging.WARNING):
        folders.evaluate(out)
    assert "the prediction holds values that are no labels" in caplog.text
    folders.evaluate(tmp_path / "one")
    assert results(out) == results(tmp_path / "one")


def test_kept_scores_of_other_settings_or_damaged_ones_are_not_used(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    folders.evaluate(out, part="0/2", labels=REGIONS)
    kept = out / ".segflow" / "scores"
    (kept / "case_2.json").write_text("{}")
    jobs = Jobs(folders, out)
    folders.evaluate(out, elsewhere=jobs)
    assert jobs.asked == ["case_0", "case_1", "case_2", "case_3"]
    folders.evaluate(tmp_path / "one")
    assert results(out) == results(tmp_path / "one")


def test_a_case_that_cannot_be_scored_is_told_in_its_own_words(folders: Folders, tmp_path: Path) -> None:
    (folders.reference / "case_2.nii.gz").write_text("I am no image")
    alone = folders.evaluate(tmp_path / "one")
    shared = folders.evaluate(tmp_path / "out", elsewhere=Jobs(folders, tmp_path / "out"))
    assert shared.failed == alone.failed
    assert results(tmp_path / "out") == results(tmp_path / "one")


def test_if_every_part_is_lost_there_is_no_summary(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(CaseErrors, match="no case could be evaluated"):
        folders.evaluate(tmp_path / "out", elsewhere=Jobs(folders, tmp_path / "out", left=["0/2", "1/2"]))
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_part_needs_a_place_for_its_scores(folders: Folders) -> None:
    with pytest.raises(SegflowError, match="need an output folder"):
        folders.evaluate(None, part="0/2")


@pytest.mark.parametrize("part", ["2/2", "0", "x"])
def test_a_part_that_does_not_exist_is_refused(part: str) -> None:
    with pytest.raises(SegflowError, match="part must be k/n"):
        EvaluateSettings(part=part)
