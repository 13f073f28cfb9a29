"""Arrays of other plans, images or labels are not trained on; plans do not replace what other plans are trained on."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
from raw_setup import Setup, describe, write_case

from segflow.core.errors import SegflowError
from segflow.preprocessing import check_arrays as door
from segflow.preprocessing.check_arrays import check_choices, check_files, identify_arrays, other_arrays
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.storage.case_files import find_training_cases
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.raw_dataset import read_description

CASES = ("case_0", "case_1", "case_2")
REMEDY = "segflow preprocess dataset=900"
REDO = PreprocessSettings(processes=0, redo=True)


def store_of(setup: Setup) -> PreprocessedStore:
    return PreprocessedStore(setup.out / "plans_fine")


def check(setup: Setup) -> None:
    """What a training of ``fine`` checks of its plans."""
    check_choices(store_of(setup), CASES, setup.plans, "fine", read_description(setup.raw).labels, REMEDY)


def check_raw(setup: Setup) -> None:
    """What it checks of its files."""
    cases = find_training_cases(setup.raw, read_description(setup.raw))
    references = {"case_2": setup.out / "gt_segmentations" / "case_2.nii.gz"}
    check_files(store_of(setup), cases, references, REMEDY)


def identity(setup: Setup) -> dict[str, Any]:
    return identify_arrays(store_of(setup), CASES, setup.plans, "fine", read_description(setup.raw).labels)


def write_plans(setup: Setup, name: str, **keys: Any) -> None:
    """Plans beside the arrays whose ``fine`` differs in some keys."""
    fine = {**setup.plans.configurations["fine"], **keys}
    plans = replace(setup.plans, configurations={**setup.plans.configurations, "fine": fine})
    setup.out.mkdir(exist_ok=True)
    (setup.out / f"{name}.json").write_text(json.dumps(plans.to_json()))


CHANGES: dict[str, Callable[[Setup], None]] = {
    "spacing": lambda setup: setup.change("fine", spacing=[2.5, 2.5, 2.5]),
    "normalization": lambda setup: setup.change("fine", normalization_schemes=["NoNormalization"]),
    "resampling of images": lambda setup: setup.change("fine", resampling_fn_data="resample_torch_fornnunet"),
    "axis order": lambda setup: setattr(setup, "plans", replace(setup.plans, axis_order=(1, 0, 2))),
    "set of labels": lambda setup: describe(setup.raw, 3, {"background": 0, "one": 1}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_arrays_of_earlier_plans_are_refused_with_what_differs_and_the_command(setup: Setup, what: str) -> None:
    setup.run()
    check(setup)
    CHANGES[what](setup)
    with pytest.raises(SegflowError, match=f"3 of 3 cases were made by other choices.*found {what}") as caught:
        check(setup)
    assert REMEDY in str(caught.value)


def test_what_arrays_do_not_depend_on_may_change(setup: Setup) -> None:
    setup.run()
    before = identity(setup)
    setup.change("fine", batch_size=7, patch_size=[32, 32, 32], batch_dice=True)
    check(setup)
    assert other_arrays(before, identity(setup)) is None


def test_some_cases_of_earlier_plans_are_counted(setup: Setup) -> None:
    setup.run(names=("fine",))
    old = {file.name: file.read_bytes() for file in store_of(setup).folder.glob("case_1*")}
    setup.change("fine", spacing=[2.5, 2.5, 2.5])
    setup.run(names=("fine",))
    check(setup)
    for name, content in old.items():
        (store_of(setup).folder / name).write_bytes(content)
    with pytest.raises(SegflowError, match=r"1 of 3 cases were made by other choices \(case_1\)"):
        check(setup)


def test_arrays_of_an_earlier_version_go_on_with_a_warning(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    setup.run(names=("fine",))
    for case_id in CASES:
        file = store_of(setup).folder / f"{case_id}.json"
        properties = json.loads(file.read_text())
        properties["made_from"]["choices"]["version"] = 0
        file.write_text(json.dumps(properties))
    check(setup)
    assert f"3 of 3 cases were preprocessed by an earlier segflow. Anew: {REMEDY}" in caplog.text


def replace_image(setup: Setup) -> None:
    write_case(setup.raw, "case_1", seed=50)


def replace_label_by_an_older_one(setup: Setup) -> None:
    file = setup.raw / "labelsTr" / "case_1.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(file)) * 0, str(file))
    os.utime(file, (1, 1))


def replace_voxels_but_neither_size_nor_time(setup: Setup) -> None:
    file = setup.raw / "labelsTr" / "case_1.nii.gz"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change", [replace_image, replace_label_by_an_older_one, replace_voxels_but_neither_size_nor_time]
)
def test_arrays_of_other_images_or_labels_are_refused(setup: Setup, change: Callable[[Setup], None]) -> None:
    setup.run(names=("fine",))
    check_raw(setup)
    change(setup)
    with pytest.raises(SegflowError, match=r"files of 1 cases are not those .* of 'case_1'") as caught:
        check_raw(setup)
    assert REMEDY in str(caught.value)


def test_a_copied_label_that_was_changed_is_refused_without_the_raw_dataset(setup: Setup) -> None:
    setup.run(names=("fine",))
    copy = setup.out / "gt_segmentations" / "case_2.nii.gz"
    check_files(store_of(setup), [], {"case_2": copy}, REMEDY)
    sitk.WriteImage(sitk.ReadImage(str(copy)) * 0, str(copy))
    with pytest.raises(SegflowError, match="copied label of 'case_2'"):
        check_files(store_of(setup), [], {"case_2": copy}, REMEDY)
    setup.run(names=("fine",))
    check_files(store_of(setup), [], {"case_2": copy}, REMEDY)


def test_a_copied_dataset_is_the_same_and_too_much_to_compare_is_warned_of(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    setup.run(names=("fine",))
    moved = tmp_path / "elsewhere" / "Dataset900_Test"
    shutil.copytree(setup.raw, moved, copy_function=shutil.copyfile)
    setup.raw = moved
    check_raw(setup)
    monkeypatch.setattr(door, "COMPARED_BYTES", 0)
    with caplog.at_level(logging.WARNING):
        check_raw(setup)
    assert "6 raw files are as large as when they were preprocessed, but of another time" in caplog.text


def test_plans_do_not_replace_the_arrays_of_other_plans(setup: Setup) -> None:
    write_plans(setup, "nnUNetPlans")
    setup.run(names=("fine",))
    before = setup.times("plans_fine")
    setup.change("fine", spacing=[2.5, 2.5, 2.5])
    write_plans(setup, "copy")
    for settings in (PreprocessSettings(processes=0), REDO):
        with pytest.raises(SegflowError, match=r"those of 'fine' in the plans 'nnUNetPlans'.*'copy' would") as caught:
            setup.run(settings, names=("fine",), plans_name="copy")
        assert "data_identifier" in str(caught.value)
        assert "redo" not in str(caught.value)
    assert setup.times("plans_fine") == before
    setup.change("fine", data_identifier="copy_fine")
    assert len(setup.run(names=("fine",), plans_name="copy").done) == 3


def test_plans_that_changed_replace_their_own_arrays_and_say_why(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    write_plans(setup, "nnUNetPlans")
    setup.run(names=("fine",))
    setup.change("fine", spacing=[2.5, 2.5, 2.5])
    write_plans(setup, "nnUNetPlans")
    assert len(setup.run(names=("fine",)).done) == 3
    assert "3 of 3 cases are made anew: made with another spacing (3)" in caplog.text


def test_arrays_that_plans_share_are_replaced_by_those_that_made_them_when_asked(setup: Setup) -> None:
    write_plans(setup, "nnUNetPlans")
    write_plans(setup, "sharing", batch_size=9)
    setup.run(names=("fine",))
    assert setup.run(names=("fine",), plans_name="sharing").done == ()
    setup.change("fine", spacing=[2.5, 2.5, 2.5])
    write_plans(setup, "nnUNetPlans")
    with pytest.raises(SegflowError, match=r"in the plans 'sharing'.*preprocessing\.redo=true"):
        setup.run(names=("fine",))
    assert len(setup.run(REDO, names=("fine",)).done) == 3


def test_a_dataset_json_with_other_labels_than_were_planned_is_refused(setup: Setup) -> None:
    setup.out.mkdir()
    shutil.copy(setup.raw / "dataset.json", setup.out)
    setup.run(names=("fine",))
    describe(setup.raw, 3, {"background": 0, "two": 1, "one": 2})
    with pytest.raises(SegflowError, match=r"other labels than when it was planned.*segflow plan"):
        setup.run(names=("fine",))


def test_arrays_are_identified_by_their_files_and_choices(setup: Setup) -> None:
    setup.run(names=("fine",))
    before = identity(setup)
    setup.run(REDO, names=("fine",))
    assert other_arrays(before, identity(setup)) is None
    assert other_arrays({}, before) is None, "nothing is known of an earlier run"
    write_case(setup.raw, "case_1", seed=50)
    setup.run(names=("fine",))
    assert other_arrays(before, identity(setup)) == "1 cases were made from other files (case_1)"
    setup.change("fine", spacing=[2.5, 2.5, 2.5])
    setup.run(names=("fine",))
    assert other_arrays(before, identity(setup)) == "spacing [2.0, 1.0, 1.0] before, spacing [2.5, 2.5, 2.5] now"
