"""Cases that lack channels and labels, from a raw dataset to label maps, and in files of models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from apps_commands import start

from segflow.planning import measure
from segflow.planning.plan_dataset import PlanOptions, plan_dataset
from segflow.planning.planner_settings import PlannerSettings

NAME = "Dataset008_Lacking"
RUN = "outputs/{name}/tiny/3d_fullres/{run}/fold_0"
TRAIN = [
    *("train", "paths.raw=raw", "dataset=8", "plans=tiny", "configuration=3d_fullres", "fold=0"),
    *("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"),
    *("training.picture_every=1", "inference.mirroring=false"),
]


def _write(array: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


def _make(raw: Path) -> None:
    """Cases ``a_…`` with both labels, and ``b_…`` with liver only; ``a_1`` and the one to predict lack T2."""
    generator = np.random.default_rng(0)
    for number, case in enumerate(("a_0", "a_1", "a_2", "b_3", "b_4", "new")):
        label = np.zeros((8, 16, 16), np.uint8)
        label[1:4, 2:9, 2:9] = 1
        label[5:7, 8:14, 8:14] = 0 if case.startswith("b") else 2
        for channel in range(3):
            image = generator.normal(10.0 * channel, 1, label.shape) + 5 * label
            if not (channel == 1 and case in ("a_1", "new")):
                part = "imagesTr" if number < 5 else "imagesTs"
                _write(image.astype(np.float32), raw / part / f"{case}_{channel:04d}.nii.gz")
        if number < 5:
            _write(label, raw / "labelsTr" / f"{case}.nii.gz")
    content = {
        "channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "numTraining": 5,
        "file_ending": ".nii.gz",
        "allow_missing_channels": True,
        "labels_present": {"b_*": ["liver"]},
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    split = [{"train": ["a_0", "a_1", "b_3"], "val": ["a_2", "b_4"]}]
    (raw / "splits_final.json").write_text(json.dumps(split))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lacking")
    _make(folder / "raw" / NAME)
    tiny = PlannerSettings(base_features=2, max_features_3d=4, plans_name="tiny")
    with pytest.MonkeyPatch.context() as quicker:
        quicker.setattr(measure, "SAMPLES_OF_DATASET", 10_000)
        prepared = folder / "data/preprocessed" / NAME
        plan_dataset(folder / "raw" / NAME, prepared, tiny, options=PlanOptions(processes=0))
    where = ["paths.raw=raw", "dataset=8", "plans=tiny"]
    done = start(folder, "preprocess", *where, "configurations=[3d_fullres]", "processes=0")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def told(prepared: Path) -> str:
    """A run that is told which channels are there."""
    words = ["run_name=told", "training.drop_channels={T2: 0.5, FLAIR: 0.3}", "training.channel_mask=true"]
    done = start(prepared, *TRAIN, *words)
    assert done.returncode == 0, done.stderr
    return RUN.format(name=NAME, run="told")


def test_doctor_and_plan_tell_what_cases_lack(prepared: Path) -> None:
    found = start(prepared, "doctor", "paths.raw=raw", "dataset=8", "processes=0")
    assert found.returncode == 0, found.stderr
    assert "T2 (channel 1) is missing in 1 of 5 cases: a_1" in found.stderr
    assert "partly labelled: spleen was not drawn in 2 of 5 cases (b_3, b_4)" in found.stderr


def test_validation_scores_no_label_that_was_not_drawn(prepared: Path, told: str) -> None:
    summary = json.loads((prepared / told / "validation" / "summary.json").read_text())
    by_case = {Path(case["prediction_file"]).name: case["metrics"] for case in summary["metric_per_case"]}
    assert np.isnan(by_case["b_4.nii.gz"]["2"]["Dice"])
    assert not np.isnan(by_case["a_2.nii.gz"]["2"]["Dice"])
    record = json.loads((prepared / told / "run.json").read_text())
    assert record["missing_channels"] == {"may_lack": [1, 2], "mask": True}


def test_a_case_without_a_channel_is_predicted_from_the_run_and_from_a_bundle(prepared: Path, told: str) -> None:
    images = f"raw/{NAME}/imagesTs"
    done = start(prepared, "predict", f"model={told}", f"input={images}", "output=from_run")
    assert done.returncode == 0, done.stderr
    assert "T2 (channel 1) is missing in 1 of 1 case: new; predicted without it" in done.stderr
    assert json.loads((prepared / "from_run" / "predict.json").read_text())["missing_in_cases"] == {"new": ["T2"]}
    assert start(prepared, "bundle", f"model={told}", "output=model.zip").returncode == 0
    done = start(prepared, "predict", "model=model.zip", f"input={images}", "output=from_bundle")
    assert done.returncode == 0, done.stderr
    files = [prepared / folder / "new.nii.gz" for folder in ("from_run", "from_bundle")]
    first, second = (sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files)
    assert np.array_equal(first, second)


def test_a_channel_that_is_there_can_be_left_out_if_the_model_does_without(prepared: Path, told: str) -> None:
    words = ["predict", f"model={told}", f"input=raw/{NAME}/imagesTs"]
    done = start(prepared, *words, "output=without", "inference.missing_channels=[FLAIR]")
    assert done.returncode == 0, done.stderr
    assert json.loads((prepared / "without" / "predict.json").read_text())["missing_in_cases"] == {
        "new": ["T2", "FLAIR"]
    }
    refused = start(prepared, *words, "output=refused", "inference.missing_channels=[T1]")
    assert refused.returncode == 1
    assert "was not trained to do without this channel; found T1" in refused.stderr


def test_formats_that_cannot_say_it_refuse_or_need_all_channels(prepared: Path, told: str) -> None:
    refused = start(prepared, "bundle", f"model={told}", "output=other", "format=nnunet")
    assert refused.returncode == 1
    assert "nnU-Net cannot tell a network which channels of an image are there" in refused.stderr
    done = start(prepared, "bundle", f"model={told}", "output=monai", "format=monai")
    assert done.returncode == 0, done.stderr
    assert "the exported one needs all channels of an image" in done.stderr
    metadata = json.loads((prepared / "monai/configs/metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 3


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("training.drop_channels={T3: 0.5}", "training.drop_channels names no channel of the dataset; found T3"),
        ("training.drop_channels=1.0", "training.drop_channels must be probabilities"),
        ("training.drop_together=[[T1,T2]]", "training.drop_together needs training.drop_channels"),
    ],
)
def test_settings_that_fit_no_channel_are_refused(prepared: Path, word: str, problem: str) -> None:
    refused = start(prepared, *TRAIN, "run_name=refused", word)
    assert refused.returncode == 1
    assert problem in refused.stderr
