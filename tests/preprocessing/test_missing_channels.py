"""Cases that lack channels: the others are as in the whole case, and no statistics see the zeros in between."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segflow.core.case import Case, CaseFiles
from segflow.core.errors import SegflowError
from segflow.core.geometry import Box, Geometry
from segflow.core.missing_channels import MissingChannels, WithMissing, WithPresence, missing_in_all, with_missing
from segflow.core.plans import Plans
from segflow.core.training_images import TrainingImages
from segflow.core.voxels import ArraySource
from segflow.planning import measure
from segflow.planning.measure import measure_as_read, measure_case, summarize
from segflow.planning.plan_dataset import PlanOptions, plan_dataset
from segflow.planning.planner_settings import PlannerSettings
from segflow.preprocessing.preprocess_dataset import PreprocessSettings, preprocess_dataset
from segflow.storage.case_files import find_training_cases
from segflow.storage.images import read_case, reader_by_name
from segflow.storage.open_case import open_case
from segflow.storage.prepared_dataset import PreparedDataset
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.raw_dataset import check_dataset, read_description

CHANNELS = ("CT", "T2", "rescale_to_0_1")
READER = reader_by_name("SimpleITKIO")


def _make(folder: Path, lacking: dict[str, int], **more: object) -> Path:
    """Five cases of three channels; case → the channel without a file."""
    generator = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case_id in "abcde":
        label = np.zeros((8, 20, 20), np.uint8)
        label[2:6, 5:12, 5:15] = 1
        for number in range(3):
            image = generator.normal(50 * number, 10, label.shape) + 40 * label
            if lacking.get(case_id) != number:
                file = folder / "imagesTr" / f"{case_id}_{number:04d}.nii.gz"
                sitk.WriteImage(sitk.GetImageFromArray(image.astype(np.float32)), str(file))
        sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / "labelsTr" / f"{case_id}.nii.gz"))
    content = {
        "channel_names": {str(number): name for number, name in enumerate(CHANNELS)},
        "labels": {"background": 0, "organ": 1},
        "numTraining": 5,
        "file_ending": ".nii.gz",
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def _prepared(raw: Path, output: Path) -> tuple[Plans, PreprocessedStore]:
    settings = PlannerSettings(plans_name="p", base_features=4)
    plans = plan_dataset(raw, output, settings, options=PlanOptions(processes=0)).plans
    report = preprocess_dataset(raw, plans, ["3d_fullres"], output, PreprocessSettings(processes=0))
    assert not report.failed
    return plans, PreparedDataset(output).arrays(plans.configuration("3d_fullres"))


def test_arrays_of_a_case_have_the_other_channels_and_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "SAMPLES_OF_DATASET", 10_000)  # quicker
    lacking = _make(tmp_path / "Dataset001_L", {"b": 0, "c": 1}, allow_missing_channels=True)
    plans, store = _prepared(lacking, tmp_path / "lacking")
    whole_plans, whole = _prepared(_make(tmp_path / "w" / "Dataset001_L", {}), tmp_path / "whole")
    assert plans.configurations["3d_fullres"] == whole_plans.configurations["3d_fullres"]
    assert store.open("a").missing == ()
    assert "missing_channels" not in store.properties("a")
    assert (store.open("b").missing, store.open("c").missing) == ((0,), (1,))
    b, c = store.open("b").read_image(), store.open("c").read_image()
    assert not b[0].any()
    assert not c[1].any()
    assert np.array_equal(b[1:], whole.open("b").read_image()[1:])
    assert np.array_equal(c[2], whole.open("c").read_image()[2])  # the CT's statistics are those of other cases


def test_a_case_without_a_channel_is_refused_unless_the_dataset_allows_it(tmp_path: Path) -> None:
    raw = _make(tmp_path / "Dataset001_L", {"b": 1})
    with pytest.raises(SegflowError, match=r'a channel is missing: b_0001.nii.gz.*"allow_missing_channels": true'):
        find_training_cases(raw, read_description(raw))
    content = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**content, "allow_missing_channels": True}))
    description = read_description(raw)
    assert [case.missing for case in find_training_cases(raw, description)] == [(), (1,), (), (), ()]
    assert not [p for p in check_dataset(raw, description, READER) if p.severity == "error"]
    (raw / "dataset.json").write_text(json.dumps({**content, "allow_missing_channels": "yes"}))
    with pytest.raises(SegflowError, match="'allow_missing_channels' must be true or false; found 'yes'"):
        read_description(raw)


def test_in_a_list_of_files_null_is_a_missing_channel(tmp_path: Path) -> None:
    raw = _make(tmp_path / "Dataset001_L", {})
    listed = {
        case: {
            "images": [f"imagesTr/{case}_000{n}.nii.gz" if (case, n) != ("b", 1) else None for n in range(3)],
            "label": f"labelsTr/{case}.nii.gz",
        }
        for case in "ab"
    }
    content = json.loads((raw / "dataset.json").read_text()) | {"dataset": listed, "numTraining": 2}
    (raw / "dataset.json").write_text(json.dumps({**content, "allow_missing_channels": True}))
    assert [case.missing for case in find_training_cases(raw, read_description(raw))] == [(), (1,)]
    (raw / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(SegflowError, match="b"):
        find_training_cases(raw, read_description(raw))


def test_a_case_in_slabs_is_measured_as_the_whole_one(tmp_path: Path) -> None:
    raw = _make(tmp_path / "Dataset001_L", {"b": 1}, allow_missing_channels=True)
    files = find_training_cases(raw, read_description(raw))[1]
    whole = measure_case(read_case(files, READER, channels=3), 1000)
    with open_case(files, READER, channels=3) as opened:
        slabs = measure_as_read(opened, 1000)
    for one, other in zip(whole.intensities, slabs.intensities, strict=True):
        assert np.array_equal(one.values, other.values)
    assert np.isnan(whole.facts.quantiles[1]).all()
    assert str(whole.facts) == str(slabs.facts)
    assert not whole.intensities[1].counts.size


def _measured(image: np.ndarray, missing: tuple[int, ...] = ()) -> Case:
    label = np.zeros(image.shape[1:], np.int16)
    label[1:3, 1:4, 1:4] = 1
    return Case("c", image, label, Geometry((1.0, 1.0, 1.0)), missing)


def test_the_fingerprint_sees_channels_that_are_there(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = [generator.normal(100 * (n + 1), 1, (2, 4, 8, 8)).astype(np.float32) for n in range(3)]
    lacking = with_missing(images[2][:1], (1,))
    found = summarize(
        [measure_case(case, 50) for case in (_measured(images[0]), _measured(images[1]), _measured(lacking, (1,)))]
    )
    assert found.intensities[0].max > 290
    assert found.intensities[1].max < 210
    assert found.images is not None
    assert found.images.quantiles[0][1].min() > 90  # without the zeros
    assert TrainingImages.from_json(found.images.to_json()) == found.images
    with pytest.raises(SegflowError, match="channel 1 is missing in every case that has foreground"):
        summarize([measure_case(_measured(lacking, (1,)), 50)])


def test_sources_equal_arrays() -> None:
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    box = Box((1, 0, 2), (3, 4, 5))
    source = WithPresence(WithMissing(ArraySource(image), (1,)), [True, False, True])
    assert source.shape == (6, 3, 4, 5)
    values = source.read(box)
    assert np.array_equal(values[:3], with_missing(image, (1,))[(slice(None), *box.slices)])
    assert values[3:, 0, 0, 0].tolist() == [1.0, 0.0, 1.0]
    assert values.dtype == np.float32


def test_a_record_that_cannot_be_is_refused() -> None:
    told = MissingChannels((0, 2), True)
    assert MissingChannels.from_json(told.to_json(), 3) == told
    for wrong in ({"may_lack": [3], "mask": True}, {"may_lack": [0], "mask": 1}):
        with pytest.raises(SegflowError, match="'missing_channels' cannot be used"):
            MissingChannels.from_json(wrong, 3)


def test_several_models_do_without_what_all_do_without() -> None:
    first, second = MissingChannels((0, 2), False), MissingChannels((1, 2), False)
    assert missing_in_all([first, second]) == MissingChannels((2,), False)
    assert missing_in_all([first, None]) is None
    assert missing_in_all([None]) is None


def test_numbers_of_the_channels_that_have_files() -> None:
    files = CaseFiles("a", (Path("a_0000"), Path("a_0002")), missing=(1,))
    assert files.numbers == (0, 2)
    assert replace(files, missing=()).numbers == (0, 1)
