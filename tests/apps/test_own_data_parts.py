"""The page's reader, normalisation, planner and metric: each a class and a YAML, used by every command that reads."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from apps_commands import start

from segflow.core.dataset import DatasetDescription
from segflow.core.plans import Plans
from segflow.core.run_record import RunRecord
from segflow.network.build import build_network
from segflow.storage.folds import Fold

PAGE = (Path(__file__).resolve().parents[2] / "docs/guides/own_data_parts.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)```", PAGE, flags=re.DOTALL))
MODULE = "my_data.py"
CONF = ["--config-dir", "my_conf"]
TINY = ["planner.base_features=4", "planner.max_features_3d=8", "planner.max_features_2d=8", "processes=0"]
HERE = "preprocessing.processes=0"
NAME = "Dataset005_Arrays"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the page shows for parts that read, normalise, plan and score."""
    for name, content in FILES.items():
        if name == MODULE or re.match(r"my_conf/(reader|normalization|planner|metrics)/", name):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def make_dataset(root: Path, ending: str) -> Path:
    """A dataset of five small cases, as arrays of numpy or as NIfTI."""
    folder = root / "data" / "raw" / NAME
    generator = np.random.default_rng(0)
    for number in range(5):
        image = generator.normal(100, 40, (12, 20, 18)).astype(np.float32)
        for kind, values, name in (
            ("imagesTr", image, f"case_{number}_0000"),
            ("labelsTr", (image > 130).astype(np.uint8), f"case_{number}"),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            file = folder / kind / f"{name}{ending}"
            if ending == ".npy":
                np.save(file, values)
            else:
                sitk.WriteImage(sitk.GetImageFromArray(values), str(file))
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "spot": 1}, "numTraining": 5}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ending}))
    return folder


def untrained_run(root: Path, plans_name: str) -> Path:
    """A run as training leaves it, of a network that learned nothing."""
    prepared = root / "data" / "preprocessed" / NAME
    record = RunRecord(
        dataset=DatasetDescription.from_json(NAME, json.loads((prepared / "dataset.json").read_text())),
        plans=Plans.from_json(json.loads((prepared / f"{plans_name}.json").read_text())),
        configuration="3d_fullres",
        fold=0,
        train_cases=("case_0",),
        val_cases=("case_1",),
        mirror_axes=(),
    )
    torch.manual_seed(0)
    network = build_network(record.plan.topology, record.in_channels, record.dataset.labels.num_outputs)
    fold = Fold(root / "outputs" / NAME / plans_name / "3d_fullres" / "default" / "fold_0")
    fold.write_record(record)
    fold.checkpoints.mkdir()
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1, "hyper_parameters": {}}, fold.checkpoint("final"))
    fold.mark_finished()
    return fold.path.parent


def succeeded(root: Path, *arguments: str) -> str:
    result = start(root, *arguments)
    assert result.returncode == 0, f"{arguments}: {result.stderr}"
    return result.stdout


def refused(root: Path, *arguments: str) -> str:
    result = start(root, *arguments)
    assert result.returncode != 0, result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_reader_from_the_raw_dataset_to_label_maps_and_their_scores(folder: Path) -> None:
    raw = make_dataset(folder, ".npy")
    own = [*CONF, "reader=arrays"]
    dataset = f"dataset={NAME}"
    assert "no reader for files of this ending; found '.npy'" in refused(folder, "plan", dataset, *TINY)
    planned = succeeded(folder, "plan", *own, dataset, *TINY)
    assert f"Next: segflow preprocess --config-dir=my_conf reader=arrays dataset={NAME}" in planned
    content = json.loads((folder / "data" / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
    assert content["image_reader_writer"] == "NumpyIO"
    assert content["original_median_spacing_after_transp"] == [3.0, 1.0, 1.0]
    missing = refused(folder, "preprocess", dataset, HERE)
    assert "unknown reader 'NumpyIO'" in missing
    assert "by the setting 'reader'" in missing
    succeeded(folder, "preprocess", *own, dataset, "configurations=[3d_fullres]", "preprocessing.processes=2")
    run = untrained_run(folder, "nnUNetPlans")
    images = f"input={raw / 'imagesTr'}"
    predict = [f"model={run}", images, "output=predicted", "inference.mirroring=false", "inference.device=cpu"]
    assert "unknown reader 'NumpyIO'" in refused(folder, "predict", *predict)
    succeeded(folder, "predict", *own, *predict)
    assert np.load(folder / "predicted" / "case_0.npy").shape == (12, 20, 18)
    evaluate = ["prediction=predicted", f"reference={raw / 'labelsTr'}", "evaluation.processes=0"]
    assert "spot" in succeeded(folder, "evaluate", *own, *evaluate)


def test_a_normalisation_is_the_same_in_prediction_or_none(folder: Path) -> None:
    raw = make_dataset(folder, ".nii.gz")
    own = [*CONF, "normalization=window"]
    dataset = f"dataset={NAME}"
    planned = succeeded(folder, "plan", *own, dataset, *TINY)
    assert f"Next: segflow preprocess --config-dir=my_conf normalization=window dataset={NAME}" in planned
    content = json.loads((folder / "data" / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
    assert content["configurations"]["3d_fullres"]["normalization_schemes"] == ["CT"]
    assert content["own_normalizations"]["CT"]["_target_"] == "my_data.Window"
    only = "configurations=[3d_fullres]"
    assert "the plans name the normalisation 'CT', a part of one's own" in refused(folder, "preprocess", dataset, only)
    succeeded(folder, "preprocess", *own, dataset, only, "preprocessing.processes=2")
    other = refused(folder, "preprocess", *own, dataset, only, "normalization.CT.low=0")
    assert "normalization.CT: the plans were made with another normalisation of this name" in other
    run = untrained_run(folder, "nnUNetPlans")
    images = f"input={raw / 'imagesTr'}"
    predict = [f"model={run}", images, "output=predicted", "inference.mirroring=false", "inference.device=cpu"]
    assert "the plans name the normalisation 'CT'" in refused(folder, "predict", *predict)
    succeeded(folder, "predict", *own, *predict)
    assert len(list((folder / "predicted").glob("*.nii.gz"))) == 5


def test_a_planner(folder: Path) -> None:
    make_dataset(folder, ".nii.gz")
    planned = succeeded(folder, "plan", *CONF, "planner=small", f"dataset={NAME}", *TINY)
    assert "made by your own planner" in planned
    assert f"segflow preprocess dataset={NAME} plans=smallPlans" in planned
    content = json.loads((folder / "data" / "preprocessed" / NAME / "smallPlans.json").read_text())
    assert content["configurations"]["3d_fullres"]["patch_size"] == [8, 16, 16]
    assert content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"][0] == 4
    wrong = [*CONF, "planner=small", f"dataset={NAME}", *TINY, "planner.own.patch_size=[8,17,16]"]
    assert "expected multiples of" in refused(folder, "plan", *wrong)


def test_a_metric(folder: Path) -> None:
    raw = make_dataset(folder, ".nii.gz")
    labels = raw / "labelsTr"
    table = succeeded(
        folder, "evaluate", *CONF, "metrics=volume", f"prediction={labels}", f"reference={labels}", "output=scores"
    )
    assert "bias_ml" in table
    with (folder / "scores" / "metrics.csv").open() as stream:
        assert [float(row["bias_ml"]) for row in csv.DictReader(stream)] == [0.0] * 5
    summary = json.loads((folder / "scores" / "summary.json").read_text())
    assert summary["foreground_mean"]["bias_ml"] == 0.0


@pytest.mark.parametrize(
    ("file", "content", "arguments", "message"),
    [
        ("metrics/wrong", "bias: {_target_: my_data.Windo, low: 0}", ["metrics=wrong"], "metrics.bias: cannot make"),
        ("metrics/wrong", "Dice: {_target_: my_data.VolumeBias}", ["metrics=wrong"], "a name of its own"),
        (
            "metrics/wrong",
            "bias: {_target_: my_data.make_plans}",
            ["metrics=wrong"],
            "(prediction, reference, spacing)",
        ),
        ("metrics/wrong", "bias: 3", ["metrics=wrong"], "metrics.bias"),
        ("metrics/wrong", "bias: {_target_: my_data.Window, hight: 3}", ["metrics=wrong"], "metrics.bias.hight"),
        ("reader/wrong", "_target_: my_data.VolumeBias", ["reader=wrong"], "reader: VolumeBias is"),
    ],
)
def test_what_does_not_fit_is_named_with_its_setting(
    folder: Path, file: str, content: str, arguments: list[str], message: str
) -> None:
    labels = make_dataset(folder, ".nii.gz") / "labelsTr"
    yaml = folder / "my_conf" / f"{file}.yaml"
    yaml.parent.mkdir(parents=True, exist_ok=True)
    yaml.write_text(content + "\n")
    problem = refused(folder, "evaluate", *CONF, *arguments, f"prediction={labels}", f"reference={labels}")
    assert message in problem
    assert not (labels / "summary.json").exists()
