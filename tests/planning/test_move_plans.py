"""Plans of one dataset for another: what is taken over, what is the other dataset's own, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segflow.core.errors import SegflowError
from segflow.core.fingerprint import Fingerprint
from segflow.core.geometry import Geometry
from segflow.planning import measure
from segflow.planning.plan_dataset import PlanOptions, PlanReport, plan_dataset
from segflow.planning.planner import PlannerSettings
from segflow.storage.image_formats.contract import ImageFormat
from segflow.storage.json_files import read_json, write_json
from segflow.storage.readers import shipped_reader

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Function: name and properties of a raw dataset of four cases → its folder."""
    monkeypatch.setattr(measure, "SAMPLES_OF_DATASET", 4000)

    def made(
        name: str, *, shape: tuple[int, int, int] = (12, 24, 20), channel: str = "MR", channels: int = 1,
        ending: str = ".nii.gz", labels: int = 1, mean: float = 100.0,
    ) -> Path:  # fmt: skip
        folder, generator = tmp_path / "raw" / name, np.random.default_rng(labels)
        reader = shipped_reader("SimpleITKIO")
        assert isinstance(reader, ImageFormat)
        geometry = Geometry((2.0, 0.5 * labels, 0.5))
        (folder / "imagesTr").mkdir(parents=True)
        (folder / "labelsTr").mkdir()
        for case in range(4):
            image = generator.normal(mean, 20, shape).astype(np.float32)
            for number in range(channels):
                reader.write_file(image, geometry, folder / "imagesTr" / f"case_{case}_{number:04d}{ending}")
            label = (image > mean).astype(np.uint8) * np.uint8(labels)
            reader.write_file(label, geometry, folder / "labelsTr" / f"case_{case}{ending}")
        description = {
            "channel_names": {str(number): channel for number in range(channels)},
            "labels": {"background": 0, **{f"organ_{n}": n for n in range(1, labels + 1)}},
            "numTraining": 4,
            "file_ending": ending,
        }
        write_json(folder / "dataset.json", description)
        return folder

    return made


def plan(raw: Path, name: str = "nnUNetPlans", **options: Any) -> PlanReport:
    settings = PlannerSettings(plans_name=name)
    place = raw.parent.parent / "preprocessed" / raw.name
    return plan_dataset(raw, place, settings, options=PlanOptions(processes=0, **options))


def test_only_the_names_the_reader_and_the_arrays_change(make: Make) -> None:
    first = plan(make("Dataset001_First"))
    before = read_json(first.folder / "nnUNetPlans.json")
    raw = make("Dataset002_Second", shape=(14, 30, 26), ending=".nrrd", labels=3, mean=900)
    report = plan(raw, "MovedPlans", plans=first.folder / "nnUNetPlans.json")
    after = read_json(report.folder / "MovedPlans.json")
    assert after["dataset_name"] == "Dataset002_Second"
    assert after["plans_name"] == "MovedPlans"
    assert after["image_reader_writer"] == "SimpleITKIO"
    names = {name: value["data_identifier"] for name, value in after["configurations"].items()}
    assert names == {name: f"MovedPlans_{name}" for name in before["configurations"]}
    for value in (*before["configurations"].values(), *after["configurations"].values()):
        del value["data_identifier"]
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"dataset_name", "plans_name"}
    assert "taken over from 'nnUNetPlans' of Dataset001_First" in report.configurations[0].reason


def test_the_other_dataset_keeps_its_own_fingerprint_labels_and_folds(make: Make) -> None:
    first = plan(make("Dataset001_First"))
    raw = make("Dataset002_Second", labels=3, mean=900)
    moved = plan(raw, "MovedPlans", plans=first.folder / "nnUNetPlans.json")
    alone = plan(raw)
    assert moved.measured
    assert not alone.measured
    assert moved.fingerprint == alone.fingerprint
    assert moved.fingerprint.intensities != moved.plans.intensities
    assert read_json(moved.folder / "dataset.json") == read_json(raw / "dataset.json")
    assert moved.splits == alone.splits


def test_plans_within_the_record_of_a_run_are_moved(make: Make, tmp_path: Path) -> None:
    first = plan(make("Dataset001_First"))
    write_json(tmp_path / "run.json", {"plans": first.plans.to_json(), "fold": 0})
    moved = plan(make("Dataset002_Second"), plans=tmp_path / "run.json")
    assert moved.plans.configurations == first.plans.configurations  # the plans keep their name, and so do the arrays


def test_moving_again_changes_nothing_and_no_other_plans_are_replaced(make: Make) -> None:
    first = plan(make("Dataset001_First"))
    source, raw = first.folder / "nnUNetPlans.json", make("Dataset002_Second", shape=(20, 30, 30))
    own = plan(raw)
    with pytest.raises(SegflowError, match=r"other plans of this name.*planner\.plans_name=nnUNetPlansMoved"):
        plan(raw, plans=source)
    assert read_json(own.folder / "nnUNetPlans.json") == own.plans.to_json()
    moved = [plan(raw, "MovedPlans", plans=source).plans for _ in range(2)]
    assert moved[0] == moved[1]


def test_other_channels_are_refused_and_other_normalisations_told(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    source = plan(make("Dataset001_First")).folder / "nnUNetPlans.json"
    with pytest.raises(SegflowError, match=r"another number of channels than Dataset001_First.*2: MR, MR.*expected 1"):
        plan(make("Dataset002_Second", channels=2), plans=source)
    plan(make("Dataset003_Third", channel="CT"), plans=source)
    assert "channel 0, 'CT', is normalised as in Dataset001_First: ZScoreNormalization" in caplog.text


def _without(name: str, key: str) -> Callable[[dict[str, Any]], None]:
    def change(plans: dict[str, Any]) -> None:
        del plans["configurations"][name][key]

    return change


def _cascade(plans: dict[str, Any]) -> None:
    plans["configurations"]["mine"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without("3d_fullres", "patch_size"), "configuration '3d_fullres' cannot be used"),
        (_cascade, "configuration 'mine' cannot be used: the plans 'nnUNetPlans' .* have no configuration '3d_lowres'"),
        (lambda plans: plans.update(configurations={}), "the plans have no configuration"),
        (lambda plans: plans.pop("transpose_forward"), "lack the key 'transpose_forward'"),
    ],
)
def test_plans_that_cannot_be_used_are_refused_before_anything_is_written(
    make: Make, tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    content = read_json(plan(make("Dataset001_First")).folder / "nnUNetPlans.json")
    change(content)
    (tmp_path / "plans.json").write_text(json.dumps(content))
    raw = make("Dataset002_Second")
    with pytest.raises(SegflowError, match=told):
        plan(raw, plans=tmp_path / "plans.json")
    assert not list((tmp_path / "preprocessed" / raw.name).glob("*Plans.json"))


def test_volumes_plans_do_not_fit_single_slices(make: Make, tmp_path: Path) -> None:
    content = read_json(plan(make("Dataset001_First")).folder / "nnUNetPlans.json")
    flat = make("Dataset002_Flat", shape=(1, 24, 20))
    assert plan(flat, plans=_written(tmp_path, content)).plans.configurations.keys() == content["configurations"].keys()
    del content["configurations"]["2d"]
    with pytest.raises(SegflowError, match=r"plans are for volumes.*\['3d_fullres'\]"):
        plan(flat, "Other", plans=_written(tmp_path, content))


def _written(folder: Path, content: dict[str, Any]) -> Path:
    write_json(folder / "plans.json", content)
    return folder / "plans.json"


def test_a_planner_of_ones_own_and_moved_plans_exclude_each_other(make: Make, tmp_path: Path) -> None:
    from segflow.core.own_part import OwnPart

    own = OwnPart("planner.own", lambda *_: None, {})
    with pytest.raises(SegflowError, match=r"from_plans and planner\.own"):
        plan(make("Dataset001_First"), plans=tmp_path / "plans.json", planner=own)


def test_a_fingerprint_and_plans_need_no_images(make: Make, tmp_path: Path) -> None:
    first = plan(make("Dataset001_First"))
    raw = make("Dataset002_Second")
    for folder in ("imagesTr", "labelsTr"):
        for file in (raw / folder).iterdir():
            file.unlink()
        (raw / folder).rmdir()
    files = {"plans": first.folder / "nnUNetPlans.json", "fingerprint": first.folder / "dataset_fingerprint.json"}
    moved = plan(raw, **files)
    assert not moved.measured
    assert not moved.splits
    assert isinstance(moved.fingerprint, Fingerprint)
