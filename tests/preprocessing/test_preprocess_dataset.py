from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from raw_setup import Setup, describe, write_case

from segflow.core.case import CaseFiles
from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.geometry import Geometry
from segflow.core.labels import Labels
from segflow.execution.progress import ProgressEvent
from segflow.preprocessing import preprocess_jobs as door
from segflow.preprocessing.case_memory import need_of
from segflow.preprocessing.preprocess_case import preprocess_case
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.preprocessing.provenance import choices_of
from segflow.storage import case_index, preprocessed_store
from segflow.storage.case_files import find_training_cases
from segflow.storage.images import read_case, reader_by_name
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.raw_dataset import read_description


@pytest.mark.parametrize("processes", [0, 2])
def test_arrays_are_those_of_preprocess_case(setup: Setup, processes: int) -> None:
    events: list[ProgressEvent] = []
    report = setup.run(PreprocessSettings(processes=processes), progress=events.append)
    assert report.done == ("case_0", "case_1", "case_2")
    assert report.arrays == ("plans_2d", "plans_fine", "plans_coarse")
    assert not report.failed
    assert [event.done for event in events] == [0, 1, 2, 3]
    description = read_description(setup.raw)
    for files in find_training_cases(setup.raw, description):
        case = read_case(files, reader_by_name("SimpleITKIO"))
        for name in ("2d", "fine", "coarse"):
            plan = setup.plans.configuration(name)
            expected = preprocess_case(case, setup.plans, plan, description.labels)
            stored = PreprocessedStore(setup.out / plan.data_identifier).open(files.case_id)
            assert np.array_equal(stored.read_image(), expected.image)
            assert np.array_equal(stored.read_label(), expected.label)
            assert stored.spatial == expected.spatial
            for key, voxels in expected.foreground_locations.items():
                assert stored.foreground.location(key, 5) == tuple(voxels[5])


def test_each_case_is_read_once_for_all_configurations(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counting(files: CaseFiles, *arguments: Any, **options: Any) -> Any:
        read.append(files.case_id)
        return read_case(files, *arguments, **options)

    monkeypatch.setattr(door, "read_case", counting)
    setup.run()
    assert read == ["case_0", "case_1", "case_2"]


def test_absurd_values_are_normalised_and_told_of_in_one_line(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    for number, scale in ((0, 1e-20), (1, 1e25)):
        file = setup.raw / "imagesTr" / f"case_{number}_0000.nii.gz"
        sitk.WriteImage(sitk.ReadImage(str(file)) * scale, str(file))
    setup.run(names=["fine"])
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(
        "2 cases hold values that no measurement gives. Case 'case_0': channel 0: no value is larger"
    )
    images = [PreprocessedStore(setup.out / "plans_fine").open(f"case_{n}").read_image() for n in range(3)]
    assert all(0.5 < image.std() < 1.5 and abs(image.mean()) < 0.1 for image in images)


def test_a_second_run_does_nothing(setup: Setup) -> None:
    setup.run()
    before = setup.times("plans_fine")
    report = setup.run()
    assert report.done == ()
    assert report.skipped == ("case_0", "case_1", "case_2")
    assert setup.times("plans_fine") == before
    assert setup.run(PreprocessSettings(processes=0, redo=True)).done == ("case_0", "case_1", "case_2")


def test_only_what_changed_is_made_again(setup: Setup) -> None:
    setup.run()
    write_case(setup.raw, "case_1", seed=77)
    assert setup.run().done == ("case_1",)

    before = setup.times("plans_fine"), setup.times("plans_2d")
    setup.change("coarse", spacing=[4.0, 2.0, 2.0])
    assert setup.run().done == ("case_0", "case_1", "case_2")
    assert (setup.times("plans_fine"), setup.times("plans_2d")) == before

    for number in range(3, 6):
        write_case(setup.raw, f"case_{number}", number)
    describe(setup.raw, 6)
    assert setup.run().done == ("case_3", "case_4", "case_5")

    setup.change("fine", patch_size=[32, 32, 32], batch_size=7)
    assert setup.run().done == ()
    describe(setup.raw, 6, {"background": 0, "one": 1, "two": 2, "ignore": 3})
    assert len(setup.run().done) == 6


def test_a_changed_label_alone_is_noticed(setup: Setup) -> None:
    setup.run()
    file = setup.raw / "labelsTr" / "case_2.nii.gz"
    label = sitk.ReadImage(str(file))
    sitk.WriteImage(label * 0, str(file))
    os.utime(file, (1, 1))  # an older file put in its place
    assert setup.run().done == ("case_2",)
    store = PreprocessedStore(setup.out / "plans_fine")
    assert not store.open("case_2").read_label().any()
    assert store.open("case_2").foreground.keys == ()
    copy = sitk.ReadImage(str(setup.out / "gt_segmentations" / "case_2.nii.gz"))
    assert not sitk.GetArrayFromImage(copy).any()


def test_moving_or_touching_a_dataset_redoes_nothing(setup: Setup, tmp_path: Path) -> None:
    setup.run()
    moved = tmp_path / "elsewhere" / "Dataset900_Test"
    shutil.copytree(setup.raw, moved, copy_function=shutil.copyfile)
    setup.raw = moved
    assert setup.run().done == ()


def test_cases_that_are_gone_are_deleted(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    setup.run()
    (setup.raw / "imagesTr" / "case_0_0000.nii.gz").unlink()
    (setup.raw / "labelsTr" / "case_0.nii.gz").unlink()
    describe(setup.raw, 2)
    report = setup.run()
    assert report.removed == ("case_0",)
    assert "case_0" in caplog.text
    assert PreprocessedStore(setup.out / "plans_2d").case_ids() == ["case_1", "case_2"]
    assert not (setup.out / "gt_segmentations" / "case_0.nii.gz").exists()
    assert "case_0" in report.text()


@pytest.mark.parametrize("damage", ["truncated", "deleted", "garbled"])
def test_a_damaged_array_is_made_anew(setup: Setup, damage: str) -> None:
    setup.run()
    file = setup.out / "plans_fine" / "case_1.b2nd"
    if damage == "deleted":
        file.unlink()
    elif damage == "truncated":
        os.truncate(file, 100)
    else:
        file.write_bytes(b"x" * file.stat().st_size)
        os.utime(file, (2e9, 2e9))
    before = setup.times("plans_coarse")
    assert setup.run().done == ("case_1",)
    assert setup.times("plans_coarse") == before
    PreprocessedStore(setup.out / "plans_fine").open("case_1").read_image()


@pytest.mark.parametrize("processes", [0, 2])
def test_a_bad_case_is_named_and_the_others_are_done(setup: Setup, processes: int) -> None:
    bad = setup.raw / "imagesTr" / "case_1_0000.nii.gz"
    bad.write_bytes(b"no image")
    write_case(setup.raw, "case_3", 3)
    image = sitk.ReadImage(str(setup.raw / "imagesTr" / "case_3_0000.nii.gz")) * float("nan")
    sitk.WriteImage(image, str(setup.raw / "imagesTr" / "case_3_0000.nii.gz"))
    report = setup.run(PreprocessSettings(processes=processes))
    assert report.done == ("case_0", "case_2")
    assert list(report.failed) == ["case_1", "case_3"]
    assert "case 'case_1'" in report.failed["case_1"]
    assert "not numbers" in report.failed["case_3"]
    assert "2 failed: case_1, case_3" in report.text()
    assert PreprocessedStore(setup.out / "plans_fine").case_ids() == ["case_0", "case_2"]


def test_a_label_that_was_edited_after_planning_is_checked_again(setup: Setup) -> None:
    file = setup.raw / "labelsTr" / "case_1.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(file)) + 5, str(file))
    report = setup.run()
    assert list(report.failed) == ["case_1"]
    assert "found [5, 6, 7]; expected only [0, 1, 2]" in report.failed["case_1"]


def test_arrays_of_regions_are_known_again_by_the_keys_that_version_1_wrote(setup: Setup) -> None:
    labels = Labels.from_json({"background": 0, "whole": [1, 2], "core": 2}, [1, 2])
    choices = choices_of(setup.plans, setup.plans.configuration("fine"), labels)
    assert choices["locations"] == ["(1, 2)", "(2,)"]


def test_references_are_copied_once(setup: Setup) -> None:
    setup.run()
    copy = setup.out / "gt_segmentations" / "case_0.nii.gz"
    assert copy.read_bytes() == (setup.raw / "labelsTr" / "case_0.nii.gz").read_bytes()
    before = copy.stat().st_mtime_ns
    setup.run()
    assert copy.stat().st_mtime_ns == before
    copy.unlink()
    setup.run()
    assert copy.exists()


def test_the_need_of_memory_grows_with_image_and_result(setup: Setup) -> None:
    [files, *_] = find_training_cases(setup.raw, read_description(setup.raw))
    reader = reader_by_name("SimpleITKIO")
    coarse, fine = (setup.plans.configuration(name) for name in ("coarse", "fine"))

    def need(*plans: ConfigurationPlan) -> int:
        return need_of(reader.read_header(files.images[0]), 1, setup.plans, plans).whole

    small = need(coarse)
    assert need(coarse, replace(fine, spacing=(0.2, 0.2, 0.2))) - small > 4 * 90 * 90 * 50
    write_case(setup.raw, "case_0", 0, shape=(90, 120, 100))
    assert need(coarse) - small > 2 * 4 * 90 * 120 * 100


def test_configurations_that_share_a_folder_must_agree(setup: Setup) -> None:
    other = setup.make_configuration((1.0, 1.0, 1.0), identifier="plans_fine")
    setup.plans = replace(setup.plans, configurations={**setup.plans.configurations, "other": other})
    with pytest.raises(SegflowError, match=r"'fine' and 'other' share the folder 'plans_fine' but differ in spacing"):
        setup.run(names=("fine", "other"))


@pytest.mark.parametrize("identifier", ["../elsewhere", "/tmp/x", ".."])
def test_a_folder_outside_is_refused(setup: Setup, identifier: str) -> None:
    setup.change("fine", data_identifier=identifier)
    with pytest.raises(SegflowError, match="data_identifier cannot be part of a path"):
        setup.run(names=("fine",))


def test_case_names_that_would_collide_are_refused(setup: Setup) -> None:
    write_case(setup.raw, "case_0_seg", 5)
    with pytest.raises(SegflowError, match="would overwrite"):
        setup.run()


def test_unknown_configurations_and_settings_are_refused(setup: Setup) -> None:
    with pytest.raises(SegflowError, match="no configuration '3d_huge'"):
        setup.run(names=("3d_huge",))
    with pytest.raises(SegflowError, match="processes"):
        PreprocessSettings(processes=-1)


def test_a_case_whose_spacing_beside_it_was_corrected_is_made_again(setup: Setup) -> None:
    tiff = reader_by_name("Tiff3DIO")
    for folder in ("imagesTr", "labelsTr"):
        for file in list((setup.raw / folder).iterdir()):
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
            name = file.name.replace("_0000.nii.gz", ".nii.gz").replace(".nii.gz", ".tif")
            tiff.write_map(array, Geometry((2.0, 1.5, 1.0)), setup.raw / folder / name)  # with its .json
            if folder == "imagesTr":
                (setup.raw / folder / name).rename(setup.raw / folder / name.replace(".tif", "_0000.tif"))
            file.unlink()
    describe(setup.raw, 3, ending=".tif")
    setup.plans = replace(setup.plans, reader="Tiff3DIO")
    assert setup.run(names=("fine",)).done == ("case_0", "case_1", "case_2")
    assert setup.run(names=("fine",)).done == ()
    for folder in ("imagesTr", "labelsTr"):
        (setup.raw / folder / "case_1.json").write_text('{"spacing": [4.0, 1.5, 1.0]}')
    assert setup.run(names=("fine",)).done == ("case_1",)
    copy = tiff.read_label(setup.out / "gt_segmentations" / "case_1.tif")
    assert copy[1].spacing == (4.0, 1.5, 1.0)


def test_a_second_run_and_a_training_open_no_case(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.run()
    for file in setup.out.glob("*/case_*.json"):
        os.utime(file, ns=(10**18, 10**18))  # long before the index was written
    setup.run()  # whose index has the new times
    monkeypatch.setattr(case_index, "read_json", pytest.fail)
    monkeypatch.setattr(preprocessed_store, "read_json", pytest.fail)
    assert len(setup.run().skipped) == 3
    (folder,) = {file.parent for file in setup.out.glob("*fine/case_0.json")}
    assert PreprocessedStore(folder).read_index().open("case_0").channels == 1


@pytest.mark.parametrize("processes", [0, 2])
def test_a_case_is_read_once_for_the_index_while_others_are_made(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    opened: list[Path] = []
    read = case_index.read_json
    monkeypatch.setattr(case_index, "read_json", lambda file: opened.append(file) or read(file))
    done: list[str] = []

    def progress(event: ProgressEvent) -> None:
        done.extend([event.name] if event.done else [])
        assert sorted({file.stem for file in opened}) == sorted(done)

    report = setup.run(PreprocessSettings(processes=processes), progress=progress)
    assert sorted(done) == list(report.done)
    assert sorted(opened) == sorted(file for name in report.arrays for file in (setup.out / name).glob("case_?.json"))
    assert all((setup.out / name / case_index.INDEX_FILE).is_file() for name in report.arrays)


def test_a_case_that_was_exchanged_behind_the_index_is_made_again(setup: Setup) -> None:
    setup.run()
    file = next(iter(setup.out.glob("*fine/case_0.json")))
    content = json.loads(file.read_text())
    content["made_from"]["files"]["image_0"]["bytes"] += 1
    file.write_text(json.dumps(content, indent=4))
    assert setup.run().done == ("case_0",)
