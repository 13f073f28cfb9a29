"""Partly labelled datasets on disk: label maps that contradict ``labels_present`` are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.errors import SegflowError
from segflow.planning.plan_dataset import PlanOptions, plan_dataset
from segflow.planning.planner_settings import PlannerSettings
from segflow.storage.images import reader_by_name
from segflow.storage.raw_dataset import check_dataset, check_planned_description, read_description

LABELS = {"background": 0, "liver": 5, "spleen": 9}


def _make(folder: Path, present: dict[str, list[str]], cases: str = "abcde") -> Path:
    """Cases with both labels, but for ``b``, which has liver only."""
    generator = np.random.default_rng(0)
    for case_id in cases:
        label = np.zeros((6, 16, 16), np.uint8)
        label[1:3, 2:9, 2:9] = 5
        label[4:, 8:, 8:] = 0 if case_id == "b" else 9
        image = (label * 10 + generator.normal(0, 1, label.shape)).astype(np.float32)
        for kind, name, array in (("images", "_0000", image), ("labels", "", label)):
            (folder / f"{kind}Tr").mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"{kind}Tr" / f"{case_id}{name}.nii.gz"))
    content = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**content, "labels_present": present}))
    return folder


def _errors(folder: Path) -> list[str]:
    problems = check_dataset(folder, read_description(folder), reader_by_name("SimpleITKIO"))
    return [f"{problem.case}: {problem.message}" for problem in problems if problem.severity == "error"]


def test_a_dataset_that_is_as_it_says_has_no_errors(tmp_path: Path) -> None:
    assert _errors(_make(tmp_path / "Dataset001_X", {"b": ["liver"]})) == []


def test_doctor_names_cases_labels_and_patterns_that_contradict(tmp_path: Path) -> None:
    found = _errors(_make(tmp_path / "Dataset001_X", {"a": ["liver"], "b": ["liver"], "z_*": ["spleen"]}))
    assert found == [
        "None: labels_present of dataset.json fits no case: z_*",
        "a: a.nii.gz holds what labels_present leaves out for this case: spleen; found [9]",
    ]


def test_doctor_names_a_label_that_no_case_has(tmp_path: Path) -> None:
    found = _errors(_make(tmp_path / "Dataset001_X", {"b": ["liver"]}, cases="b"))
    assert "None: by labels_present no case has the label: spleen" in found


def test_planning_refuses_the_case_and_a_change_after_it(tmp_path: Path) -> None:
    raw, settings = tmp_path / "Dataset001_X", PlannerSettings(plans_name="p")
    _make(raw, {"a": ["liver"]})
    problem = "case 'a': the label map holds what labels_present leaves out for this case: spleen; found \\[9\\]"
    with pytest.raises(SegflowError, match=problem):
        plan_dataset(raw, tmp_path / "out", settings, options=PlanOptions(processes=0))
    _make(raw, {"b": ["liver"]})
    plan_dataset(raw, tmp_path / "out", settings, options=PlanOptions(processes=0))
    _make(raw, {})
    with pytest.raises(SegflowError, match="has another labels_present than when it was planned"):
        check_planned_description(tmp_path / "out", read_description(raw))
