"""A planner of a user's own, and channels with a normalisation of a user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import Fingerprint
from segflow.core.own_part import OwnPart
from segflow.core.plans import Plans
from segflow.planning.own_planner import with_own_normalizations
from segflow.planning.plan_dataset import PlanOptions, PlanReport, plan_dataset
from segflow.planning.planner import make_plans
from segflow.planning.planner_settings import PlannerSettings


@dataclass
class SmallBatches:
    """Our plans, with a batch size of one's own; the rest makes wrong plans of them."""

    batch_size: int = 3
    empty: bool = False
    wrong: Mapping[str, Any] | None = None
    wrong_configuration: Mapping[str, Any] | None = None

    def __call__(
        self, fingerprint: Fingerprint, dataset: DatasetDescription, settings: PlannerSettings, reader: str
    ) -> Any:
        plans = make_plans(fingerprint, dataset, settings, reader=reader)
        if self.empty:
            return replace(plans, configurations={})
        full = {**plans.configurations["3d_fullres"], "batch_size": self.batch_size, **(self.wrong_configuration or {})}
        return replace(plans, configurations={**plans.configurations, "3d_fullres": full}, **(self.wrong or {}))


def no_plans(fingerprint: Fingerprint, dataset: DatasetDescription, settings: PlannerSettings, reader: str) -> Any:
    return {"configurations": {}}


def failing(fingerprint: Fingerprint, dataset: DatasetDescription, settings: PlannerSettings, reader: str) -> Any:
    return fingerprint.no_such_thing  # type: ignore[attr-defined]


def of_two(fingerprint: Fingerprint, dataset: DatasetDescription) -> Any:
    return None


SPACINGS, SHAPES = ((2.0, 1.0, 1.0),) * 4, ((40, 64, 60),) * 4
STATISTICS = {"max": 9.0, "mean": 5.0, "median": 5.0, "min": 0.0, "percentile_00_5": 1.0, "percentile_99_5": 8.0}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A dataset without images, and the fingerprint that it is planned from."""
    folder = tmp_path / "Dataset001_Toy"
    folder.mkdir()
    content = {"channel_names": {"0": "CT", "1": "Pet"}, "labels": {"background": 0, "a": 1}, "numTraining": 4}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    fingerprint = {
        "foreground_intensity_properties_per_channel": {str(k): {**STATISTICS, "std": 2.0} for k in range(2)},
        "median_relative_size_after_cropping": 0.5,
        "shapes_after_crop": SHAPES,
        "spacings": SPACINGS,
    }
    (tmp_path / "fingerprint.json").write_text(json.dumps(fingerprint))
    return folder


def plan(raw: Path, planner: Any = None, **options: Any) -> PlanReport:
    own = None if planner is None else OwnPart("planner.own", planner)
    settings = PlannerSettings(plans_name="small")
    fingerprint = raw.parent / "fingerprint.json"
    planned = PlanOptions(planner=own, fingerprint=fingerprint, **options)
    return plan_dataset(raw, raw.parent / "out", settings, options=planned)


def part(name: str = "PET", **options: Any) -> dict[str, OwnPart]:
    return {name: OwnPart(f"normalization.{name}", np.divide, {"_target_": "own.Pet", **options})}


def test_its_plans_are_the_datasets(raw: Path) -> None:
    report = plan(raw, SmallBatches(5))
    assert {configuration.reason for configuration in report.configurations} == {"made by your own planner"}
    written = json.loads((raw.parent / "out" / "small.json").read_text())
    assert written["configurations"]["3d_fullres"]["batch_size"] == 5
    assert written == plan(raw).plans.to_json() | {"configurations": written["configurations"]}


@pytest.mark.parametrize(
    ("planner", "found"),
    [
        (7, "int, which cannot be called"),
        (of_two, "of_two"),
        (no_plans, "found dict"),
        (failing, "found AttributeError"),
        (SmallBatches(wrong={"plans_name": "mine"}), "another 'plans_name' than they must; found mine; expected small"),
        (SmallBatches(wrong={"reader": "OtherIO"}), "another 'reader' than they must; found OtherIO"),
        (SmallBatches(wrong={"dataset_name": "Other"}), "another 'dataset_name' than they must; found Other"),
        (SmallBatches(wrong={"intensities": ()}), "another 'intensities' than they must; found 0; expected 2"),
        (SmallBatches(0), "batch_size must be at least 1"),
        (SmallBatches(empty=True), "plans without a configuration"),
        (
            SmallBatches(wrong_configuration={"patch_size": [33, 32, 32]}),
            "fit the network; found [33, 32, 32]",
        ),
        (
            SmallBatches(wrong_configuration={"normalization_schemes": ["CT"], "use_mask_for_norm": [False]}),
            "every channel needs a normalisation; found ['CT']; expected 2",
        ),
    ],
)
def test_what_it_makes_is_looked_at_before_anything_is_written(raw: Path, planner: Any, found: str) -> None:
    with pytest.raises(SegflowError, match=r"^planner\.own: ") as caught:
        plan(raw, planner)
    assert found in str(caught.value)
    assert not (raw.parent / "out" / "small.json").exists()


@pytest.mark.parametrize("planner", [None, SmallBatches()])
def test_channels_of_a_name_are_normalised_by_it(raw: Path, planner: Any) -> None:
    plain = plan(raw, planner).plans
    own = plan(raw, planner, normalizations=part(highest=10.0)).plans
    for name in ("2d", "3d_fullres"):
        before, after = plain.configuration(name), own.configuration(name)
        assert before.normalization_schemes == ("CTNormalization", "ZScoreNormalization")
        assert before.use_mask_for_norm == (False, True)
        assert after.normalization_schemes == ("CTNormalization", "PET")
        assert after.use_mask_for_norm == (False, False)
    assert own.own_normalizations == {"PET": {"_target_": "own.Pet", "highest": 10.0}}
    written = json.loads((raw.parent / "out" / "small.json").read_text())
    assert Plans.from_json(written) == own
    assert "own_normalizations" not in plain.to_json()


def test_one_that_no_channel_has_is_told(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    plans = plan(raw, normalizations=part("SUV")).plans
    assert plans == plan(raw).plans
    assert "found CT, Pet; expected SUV" in caplog.text


def test_a_planner_may_name_schemes_itself(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = SmallBatches(wrong_configuration={"normalization_schemes": ["SUV", "ZScoreNormalization"]})
    plans = plan(raw, named, normalizations=part("SUV")).plans
    assert plans.configuration("3d_fullres").normalization_schemes == ("SUV", "ZScoreNormalization")
    assert plans.own_normalizations == {"SUV": {"_target_": "own.Pet"}}
    assert not caplog.text


def test_a_channel_may_lose_our_normalisation_to_it(raw: Path) -> None:
    description = DatasetDescription.from_json("Dataset001_Toy", json.loads((raw / "dataset.json").read_text()))
    plans = with_own_normalizations(plan(raw).plans, description, part("ct"))
    assert plans.configuration("3d_fullres").normalization_schemes == ("ct", "ZScoreNormalization")
