"""The page that explains plans says what the plans say, with the numbers that decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segflow.core.dataset import DatasetDescription
from segflow.core.fingerprint import ChannelIntensities, Fingerprint
from segflow.core.plans import Plans
from segflow.planning.explain import report_configurations
from segflow.planning.planner import ConfigurationOverride, PlannerSettings, decide
from segflow.planning.plans_page import PlannedDataset, plans_page

GOLDEN = sorted((Path(__file__).resolve().parents[1] / "golden" / "plans").iterdir())
STATISTICS = ChannelIntensities(max=9, mean=5, median=5, min=1, percentile_00_5=-17, percentile_99_5=201, std=39.36)


def describe(*channels: str, cases: int = 131) -> DatasetDescription:
    content = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    return DatasetDescription.from_json("Dataset003_Liver", content)


def like_liver(relative: float = 1.0) -> Fingerprint:
    return Fingerprint(((432, 512, 512),) * 3, ((1.0, 0.767, 0.767),) * 3, (STATISTICS,), relative)


def page_of(
    fingerprint: Fingerprint, description: DatasetDescription, settings: PlannerSettings, **changes: Any
) -> tuple[Plans, str]:
    decision = decide(fingerprint, description, settings, reader="SimpleITKIO")
    reports = report_configurations(decision.plans, decision.reasons, fingerprint, description, settings)
    given = {"workings": decision.workings, **changes}
    planned = PlannedDataset(
        fingerprint=fingerprint,
        description=description,
        settings=settings,
        plans=decision.plans,
        reports=reports,
        **given,
    )
    return decision.plans, plans_page(planned)


def section(page: str, name: str) -> str:
    return page.split(f"## {name}\n")[1].split("\n## ")[0]


def test_the_numbers_of_a_ct_dataset_stand_in_the_page() -> None:
    plans, page = page_of(like_liver(), describe("CT"), PlannerSettings())
    assert "| y | 512 | 512 | 512 | 0.767 | 0.767 | 0.767 |" in page
    assert "1.3 times as long" in page
    assert "values are cut to -17 … 201" in page
    full = section(page, "3d_fullres")
    assert "| 128 × 128 × 128 | 6 |" in full
    assert full.count("| too large |") == 5
    assert full.count("| fits |") == 1
    assert "5 % of the dataset's voxels (`planner.max_dataset_fraction`) are" in full
    assert "less than 25 %" in section(page, "3d_lowres")
    assert "with the prediction of 3d_lowres" in section(page, "3d_cascade_fullres")
    assert plans.configuration("3d_fullres").patch_size == (128, 128, 128)


@pytest.mark.parametrize("option", ["nnunet", "resenc_m", "resenc_xl"])
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.name)
def test_patch_batch_spacing_and_network_are_those_of_the_plans(
    planner_settings: Callable[..., PlannerSettings], case: Path, option: str
) -> None:
    description = DatasetDescription.from_json("DATASET", json.loads((case / "dataset.json").read_text()))
    fingerprint = Fingerprint.from_json(json.loads((case / "dataset_fingerprint.json").read_text()))
    plans, page = page_of(fingerprint, description, planner_settings(option))
    for name in plans.configurations:
        plan, told = plans.configuration(name), section(page, name)
        if plan.previous_stage is None:
            patch = " × ".join(map(str, plan.patch_size))
            assert f"{plan.batch_size} patches of {patch} voxels" in told
            assert f"| {patch} | {plan.topology.levels} |" in told
            assert f": {plan.batch_size}.\n" in told
            assert f"with {plan.topology.levels} levels" in told


def test_a_coarse_axis_and_a_rim_of_zeros_are_told() -> None:
    spacings = ((5.0, 1.5, 1.5),) * 2 + ((10.0, 1.5, 1.5),) * 3
    fingerprint = Fingerprint(((12, 256, 256),) * 5, spacings, (STATISTICS,), 0.5)
    _, page = page_of(fingerprint, describe("T1"), PlannerSettings())
    assert "Both are more than 3" in page
    assert "10th percentile" in page
    assert "of the voxels that are not 0" in page
    assert "cutting leaves 50 %, less than 75 %" in page


def test_settings_that_replace_a_decision_are_told() -> None:
    override = {"3d_fullres": ConfigurationOverride(patch_size=[64, 64, 64])}
    settings = PlannerSettings(target_spacing=[2.0, 1.0, 1.0], overrides=override)
    _, page = page_of(like_liver(), describe("CT"), settings)
    assert "`planner.target_spacing` gives 2 × 1 × 1 mm" in page
    assert "`planner.overrides` set the patch to 64 × 64 × 64" in page


def test_plans_that_the_planner_did_not_make_are_told_without_its_workings() -> None:
    _, page = page_of(like_liver(), describe("CT"), PlannerSettings(), workings=None)
    assert "the search starts" not in page
    assert "| 128 × 128 × 128 |" in section(page, "3d_fullres")
