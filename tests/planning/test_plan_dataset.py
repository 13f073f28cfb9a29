"""Planning a dataset on disk: what is written, what is used again, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.geometry import Geometry
from segflow.core.split_settings import SplitSettings
from segflow.execution.progress import ProgressEvent, silent
from segflow.planning import measure, measure_dataset
from segflow.planning.plan_dataset import PlanOptions, PlanReport, plan_dataset
from segflow.planning.planner import PlannerSettings
from segflow.storage.images import reader_by_name
from segflow.storage.json_files import read_json, write_json

CASES = 6


def save(file: Path, values: np.ndarray, spacing_xyz: tuple[float, ...] = (0.5, 0.5, 2.0)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.transpose(2, 1, 0), np.diag((*spacing_xyz, 1.0))), file)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A raw dataset of six small cases."""
    monkeypatch.setattr(measure, "SAMPLES_OF_DATASET", 6000)
    folder = tmp_path / "Dataset001_Toy"
    generator = np.random.default_rng(0)
    for i in range(CASES):
        image = generator.normal(100, 20, (10, 24, 20)).astype(np.float32)
        save(folder / "imagesTr" / f"case_{i}_0000.nii.gz", image)
        save(folder / "labelsTr" / f"case_{i}.nii.gz", (image > 120).astype(np.uint8))
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "a": 1},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def plan(raw: Path, tmp_path: Path) -> Callable[..., PlanReport]:
    def run(settings: PlannerSettings | None = None, **options: Any) -> PlanReport:
        splits, progress = options.pop("splits", None), options.pop("progress", silent)
        given = PlanOptions(**{"processes": 0, **options})
        return plan_dataset(
            raw, tmp_path / "out", settings or PlannerSettings(), splits=splits, options=given, progress=progress
        )

    return run


def test_files_are_written_with_nnunets_names_and_keys(raw: Path, plan: Callable[..., PlanReport]) -> None:
    report = plan()
    read = {file.name: json.loads(file.read_text()) for file in report.folder.glob("*.json")}
    assert set(read) >= {"dataset.json", "dataset_fingerprint.json", "nnUNetPlans.json", "splits_final.json"}
    assert read["dataset.json"] == json.loads((raw / "dataset.json").read_text())
    assert set(read["dataset_fingerprint.json"]) == {
        "foreground_intensity_properties_per_channel",
        "median_relative_size_after_cropping",
        "shapes_after_crop",
        "spacings",
        "training_images",  # of segflow's own
    }
    assert read["dataset_fingerprint.json"]["shapes_after_crop"] == [[10, 24, 20]] * CASES
    assert read["dataset_fingerprint.json"]["spacings"] == [[2.0, 0.5, 0.5]] * CASES
    assert read["nnUNetPlans.json"]["dataset_name"] == "Dataset001_Toy"
    assert read["nnUNetPlans.json"]["image_reader_writer"] == "SimpleITKIO"
    assert list(read["nnUNetPlans.json"]["configurations"]) == ["2d", "3d_fullres"]
    assert len(read["splits_final.json"]) == 5
    assert report.measured


def test_worker_processes_measure_the_same(tmp_path: Path, raw: Path, plan: Callable[..., PlanReport]) -> None:
    alone = plan()
    seen: list[ProgressEvent] = []
    several = plan_dataset(
        raw, tmp_path / "other", PlannerSettings(), options=PlanOptions(processes=2), progress=seen.append
    )
    assert several.fingerprint == alone.fingerprint
    assert [(event.done, event.total) for event in seen] == [(i, CASES) for i in range(CASES + 1)]


def test_cases_that_do_not_fit_are_measured_slab_by_slab(
    monkeypatch: pytest.MonkeyPatch, raw: Path, plan: Callable[..., PlanReport]
) -> None:
    fingerprint = plan().folder / "dataset_fingerprint.json"
    expected = fingerprint.read_text()
    fingerprint.unlink()
    slabs = []

    def counting(*arguments: Any) -> Any:
        slabs.append(arguments)
        return measure.measure_as_read(*arguments)

    monkeypatch.setattr(measure_dataset, "room_for_job", lambda _: 1)
    monkeypatch.setattr(measure_dataset, "SLAB_VALUES", 1)
    monkeypatch.setattr(measure_dataset, "measure_as_read", counting)
    plan()
    assert len(slabs) == CASES
    assert fingerprint.read_text() == expected


def test_an_unchanged_dataset_is_not_measured_again(raw: Path, plan: Callable[..., PlanReport]) -> None:
    first = plan()
    again = plan(PlannerSettings(memory_target_gb=4))
    assert not again.measured
    assert again.fingerprint == first.fingerprint
    assert plan(clean=True).measured
    label = raw / "labelsTr" / "case_3.nii.gz"
    os.utime(label, (1, 1))  # the same content, copied
    assert not plan().measured


def test_a_case_that_changed_is_measured_though_size_and_time_did_not(raw: Path, tmp_path: Path) -> None:
    for case in range(CASES):
        for folder, name in (("imagesTr", f"case_{case}_0000"), ("labelsTr", f"case_{case}")):
            nib.save(nib.load(raw / folder / f"{name}.nii.gz"), raw / folder / f"{name}.nii")
            (raw / folder / f"{name}.nii.gz").unlink()
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**description, "file_ending": ".nii"}))
    plan = partial(plan_dataset, raw, tmp_path / "out", PlannerSettings(), options=PlanOptions(processes=0))
    first = plan()
    assert not plan().measured
    image = raw / "imagesTr" / "case_2_0000.nii"
    before, content = image.stat(), bytearray(image.read_bytes())
    content[-4000:] = bytes(4000)
    image.write_bytes(bytes(content))
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = plan()
    assert report.measured
    assert report.fingerprint != first.fingerprint


def test_a_spacing_that_was_corrected_beside_its_stack_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SAMPLES_OF_DATASET", 6000)
    raw, tiff = tmp_path / "Dataset002_Stacks", reader_by_name("Tiff3DIO")
    at_first = Geometry((2.0, 0.5, 0.5))
    for number in range(CASES):
        voxels = np.random.default_rng(number).uniform(1, 9, (6, 12, 12)).round()
        tiff.write_map(voxels, at_first, raw / "imagesTr" / f"case_{number}.tiff")
        (raw / "imagesTr" / f"case_{number}.tiff").rename(raw / "imagesTr" / f"case_{number}_0000.tiff")
        tiff.write_label((voxels > 4).astype(np.int16), at_first, raw / "labelsTr" / f"case_{number}.tiff")
    write_json(raw / "dataset.json", {
        "channel_names": {"0": "MR"}, "labels": {"background": 0, "a": 1}, "numTraining": CASES, "file_ending": ".tiff",
    })  # fmt: skip
    assert plan_dataset(raw, tmp_path / "out", PlannerSettings(), options=PlanOptions(processes=0)).measured
    assert not plan_dataset(raw, tmp_path / "out", PlannerSettings(), options=PlanOptions(processes=0)).measured
    for folder in ("imagesTr", "labelsTr"):
        write_json(raw / folder / "case_0.json", {"spacing": [4.0, 0.5, 0.5]})
    report = plan_dataset(raw, tmp_path / "out", PlannerSettings(), options=PlanOptions(processes=0))
    assert report.measured
    assert report.fingerprint.spacings[0] == (4.0, 0.5, 0.5)


def test_a_new_case_is_measured(raw: Path, plan: Callable[..., PlanReport]) -> None:
    plan()
    for folder, name in (("imagesTr", "case_{}_0000.nii.gz"), ("labelsTr", "case_{}.nii.gz")):
        content = (raw / folder / name.format(0)).read_bytes()
        (raw / folder / name.format(CASES)).write_bytes(content)
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**description, "numTraining": CASES + 1}))
    with pytest.raises(SegflowError, match="in no fold"):  # folds that were trained on would change
        plan()
    report = plan(replace_splits=True)
    assert len(report.fingerprint.spacings) == CASES + 1
    assert sum(len(split.val) for split in report.splits) == CASES + 1


def test_a_fingerprint_of_nnunet_is_used(plan: Callable[..., PlanReport]) -> None:
    report = plan()
    shutil.rmtree(report.folder / ".segflow")
    assert not plan().measured
    (report.folder / "dataset_fingerprint_source.json").write_text('{"files": "…"}')
    assert plan().measured  # one of ours, from before there were stamps
    assert not plan().measured


def test_a_given_fingerprint_needs_no_images(tmp_path: Path, raw: Path, plan: Callable[..., PlanReport]) -> None:
    measured = plan()
    bare = tmp_path / "Dataset002_Bare"
    bare.mkdir()
    (bare / "dataset.json").write_bytes((raw / "dataset.json").read_bytes())
    given = measured.folder / "dataset_fingerprint.json"
    report = plan_dataset(bare, tmp_path / "bare", PlannerSettings(), options=PlanOptions(fingerprint=given))
    assert report.plans.configurations == measured.plans.configurations
    assert report.splits == ()
    assert (tmp_path / "bare" / "dataset_fingerprint.json").read_bytes() == given.read_bytes()


def test_images_are_measured_after_a_given_fingerprint(tmp_path: Path, plan: Callable[..., PlanReport]) -> None:
    given = tmp_path / "given.json"
    content = read_json(plan().folder / "dataset_fingerprint.json")
    write_json(given, {**content, "spacings": [[2.0, 0.75, 0.75]] * CASES})
    assert plan(fingerprint=given).fingerprint.spacings[0] == (2.0, 0.75, 0.75)
    report = plan()
    assert report.measured
    assert report.fingerprint.spacings[0] == (2.0, 0.5, 0.5)


def test_configurations_of_the_user_stay_and_stale_ones_go(plan: Callable[..., PlanReport]) -> None:
    """Recipe 17.3, item 32: nnU-Net keeps an old low-resolution configuration that the new plans would not make."""
    report = plan(PlannerSettings(force_lowres=True))
    file = report.folder / "nnUNetPlans.json"
    value = json.loads(file.read_text())
    value["configurations"]["3d_bs40"] = {"inherits_from": "3d_fullres", "batch_size": 40}
    value["configurations"]["orphan"] = {"inherits_from": "3d_lowres", "batch_size": 40}
    file.write_text(json.dumps(value))
    report = plan()
    assert list(report.plans.configurations) == ["2d", "3d_fullres", "3d_bs40"]
    assert report.plans.configuration("3d_bs40").batch_size == 40
    assert report.kept == ("3d_bs40",)
    assert set(report.dropped) == {"3d_lowres", "3d_cascade_fullres", "orphan"}
    assert next(c for c in report.configurations if c.name == "3d_bs40").made
    assert list(json.loads(file.read_text())["configurations"]) == ["2d", "3d_fullres", "3d_bs40"]


def test_a_measured_fingerprint_survives_a_setting_that_fails(plan: Callable[..., PlanReport]) -> None:
    with pytest.raises(SegflowError, match="memory target"):
        plan(PlannerSettings(memory_target_gb=1e-9))
    assert not plan().measured


def test_everything_wrong_with_the_cases_is_listed_at_once(raw: Path, plan: Callable[..., PlanReport]) -> None:
    nothing = np.full((10, 24, 20), np.nan, np.float32)
    save(raw / "imagesTr" / "case_1_0000.nii.gz", nothing)
    save(raw / "labelsTr" / "case_2.nii.gz", np.full((10, 24, 20), 7, np.uint8))
    save(raw / "labelsTr" / "case_3.nii.gz", np.ones((10, 24, 21), np.uint8))
    save(raw / "labelsTr" / "case_4.nii.gz", np.ones((10, 24, 20), np.uint8), (0.5, 0.6, 2.0))
    (raw / "imagesTr" / "case_5_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(CaseErrors) as caught:
        plan()
    problems = caught.value.problems
    assert len(problems) == 5
    for case, word in (
        ("case_1", "NaN"),
        ("case_2", "[7]"),
        ("case_3", "shape"),
        ("case_4", "spacing"),
        ("case_5", ""),
    ):
        assert any(case in problem and word in problem for problem in problems), (case, problems)


def test_background_everywhere_is_refused(raw: Path, plan: Callable[..., PlanReport]) -> None:
    for i in range(CASES):
        save(raw / "labelsTr" / f"case_{i}.nii.gz", np.zeros((10, 24, 20), np.uint8))
    with pytest.raises(SegflowError, match="no label map has foreground"):
        plan()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numTraining": CASES + 1}, "claims 7 training cases; found 6"),
        ({"labels": {"background": 0, "a": [1, 2], "b": [1, 2, 3]}, "regions_class_order": [1, 3]}, "covers it whole"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    raw: Path, plan: Callable[..., PlanReport], changes: dict[str, Any], message: str
) -> None:
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**description, **changes}))
    with pytest.raises(SegflowError, match=message):
        plan()


def test_acdc_patients_are_kept_on_one_side(tmp_path: Path, test_data: Path) -> None:
    """ACDC has two frames of every patient; nnU-Net's own division would put them on both sides."""
    raw = test_data / "Dataset027_ACDC"
    given = tmp_path / "dataset_fingerprint.json"
    statistics = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
    given.write_text(
        json.dumps(
            {
                "spacings": [[10, 1.5, 1.5]],
                "shapes_after_crop": [[10, 220, 200]],
                "median_relative_size_after_cropping": 1.0,
                "foreground_intensity_properties_per_channel": {"0": statistics},
            }
        )
    )
    settings = SplitSettings(group_by=r"^(patient\d+)_")
    report = plan_dataset(
        raw, tmp_path / "out", PlannerSettings(), splits=settings, options=PlanOptions(fingerprint=given)
    )
    assert len(report.splits) == 5
    for split in report.splits:
        assert not {case[:10] for case in split.train} & {case[:10] for case in split.val}
