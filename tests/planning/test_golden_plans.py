"""Plans are nnU-Net's: every key of the plans that nnU-Net 2.8.1 made for random fingerprints."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import Fingerprint
from segflow.planning.planner import PlannerSettings, make_plans

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "tests" / "golden" / "plans"
LARGE = Path(os.environ.get("SEGFLOW_GOLDEN", ROOT.parent / "shared" / "golden")) / "plans"
OPTIONS = {"default": "nnunet", "M": "resenc_m", "L": "resenc_l", "XL": "resenc_xl"}
NAMES = {
    "dataset_name",
    "plans_name",
    "experiment_planner_used",
    "image_reader_writer",
    "label_manager",
    "data_identifier",
    "preprocessor_name",
}


def differences(ours: Any, theirs: Any, where: str = "plans") -> list[str]:
    """Paths at which two plans differ: floats by more than a relative 1e-6, anything else at all."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = (set(ours) ^ set(theirs)) - NAMES
        found = [f"{where}.{key} is in one only" for key in keys]
        for key in set(ours) & set(theirs) - NAMES:
            found += differences(ours[key], theirs[key], f"{where}.{key}")
        return found
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            d for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for d in differences(a, b, f"{where}[{i}]")
        ]
    if isinstance(theirs, float) and isinstance(ours, float) and math.isclose(ours, theirs, rel_tol=1e-6):
        return []
    return [] if type(ours) is type(theirs) and ours == theirs else [f"{where}: {ours!r} is not {theirs!r}"]


def check_case(case: Path, read_settings: Callable[..., PlannerSettings]) -> int:
    """Compare all planners of one case; returns how many there were."""
    description = DatasetDescription.from_json("DATASET", json.loads((case / "dataset.json").read_text()))
    fingerprint = Fingerprint.from_json(json.loads((case / "dataset_fingerprint.json").read_text()))
    compared = 0
    for name, option in OPTIONS.items():
        settings = read_settings(option)
        expected = case / f"plans_{name}.json"
        if not expected.is_file():
            with pytest.raises(SegflowError):
                make_plans(fingerprint, description, settings, reader="SimpleITKIO")
            continue
        ours = make_plans(fingerprint, description, settings, reader="SimpleITKIO").to_json()
        found = differences(json.loads(json.dumps(ours)), json.loads(expected.read_text()))
        assert not found, f"{case.name}, {option}: {found[:10]}"
        compared += 1
    return compared


@pytest.mark.parametrize("case", sorted(COMMITTED.iterdir()), ids=lambda case: case.name)
def test_plans_equal_the_committed_golden_ones(case: Path, planner_settings: Callable[..., PlannerSettings]) -> None:
    assert check_case(case, planner_settings) > 0


def test_plans_equal_all_golden_ones(planner_settings: Callable[..., PlannerSettings]) -> None:
    if not LARGE.is_dir():
        pytest.skip(f"no golden plans in {LARGE}; set SEGFLOW_GOLDEN to the folder that holds plans/")
    assert sum(check_case(case, planner_settings) for case in sorted(LARGE.iterdir()) if case.is_dir()) > 0


def test_names_of_plans_and_arrays_are_those_of_nnunet(planner_settings: Callable[..., PlannerSettings]) -> None:
    """Its own tools find a planner's class, file and arrays by these names."""
    case = COMMITTED / "001"
    description = DatasetDescription.from_json("DATASET", json.loads((case / "dataset.json").read_text()))
    fingerprint = Fingerprint.from_json(json.loads((case / "dataset_fingerprint.json").read_text()))
    for name, option in OPTIONS.items():
        ours = make_plans(fingerprint, description, planner_settings(option), reader="SimpleITKIO").to_json()
        theirs = json.loads((case / f"plans_{name}.json").read_text())
        for key in ("plans_name", "experiment_planner_used", "label_manager", "image_reader_writer"):
            assert ours[key] == theirs[key]
        for configuration, values in theirs["configurations"].items():
            for key in {"data_identifier", "preprocessor_name"} & set(values):
                assert ours["configurations"][configuration][key] == values[key]
