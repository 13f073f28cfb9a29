"""Label maps of any values, end to end: arrays of a renumbered copy, and predictions in the dataset's own values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from apps_commands import start

from segflow.core.errors import CaseErrors
from segflow.exchange.export_model import export_nnunet_model
from segflow.exchange.import_model import import_nnunet_model
from segflow.inference.predictor import Predictor
from segflow.inference.sliding_window import SlidingWindowSettings
from segflow.planning.plan_dataset import PlanOptions, plan_dataset
from segflow.planning.planner_settings import PlannerSettings
from segflow.preprocessing.preprocess_dataset import PreprocessSettings, preprocess_dataset
from segflow.storage.folds import Fold
from segflow.storage.images import reader_by_name
from segflow.storage.prepared_dataset import PreparedDataset
from segflow.storage.raw_dataset import check_dataset, read_description

NAME = "Dataset007_Values"
RAW = Path("raw") / NAME
PREPARED = Path("data/preprocessed") / NAME
RUN = Path("outputs") / NAME / "tiny" / "3d_fullres" / "default"
CT = {"background": 0, "organ": 255, "tumour": [4, 9], "ignore": [7, 200]}
BRATS = {"background": 0, "core": [1, 4], "whole": [1, 2, 4], "enhancing": 4}
"""In an order of painting that would hide the core, with nnU-Net."""
TINY = {"base_features": 2, "max_features_3d": 4, "plans_name": "tiny"}
SHORT = ["plans=tiny", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1"]


def write(array: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


def read(file: Path) -> np.ndarray:
    array: np.ndarray = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    return array


def make(folder: Path, labels: dict[str, Any], values: list[int], types: list[type], **more: Any) -> Path:
    """Five cases of cubes within cubes, which have these values, from the outer to the inner one."""
    for number in range(5):
        depth = np.zeros((12, 24, 24), int)
        for k in range(1, len(values) + 1):
            depth[k:-k, 2 * k : -2 * k, 2 * k : -2 * k] = k
        image = np.random.default_rng(number).normal(size=depth.shape) + 3.0 * depth
        write(image.astype(np.float32), folder / RAW / "imagesTr" / f"case_{number}_0000.nii.gz")
        label = np.array([0, *values])[depth].astype(types[number % len(types)])
        write(label, folder / RAW / "labelsTr" / f"case_{number}.nii.gz")
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 5, "file_ending": ".nii.gz", **more}
    (folder / RAW / "dataset.json").write_text(json.dumps(content))
    return folder


def prepare(folder: Path) -> Path:
    """What ``plan`` and ``preprocess`` do, without their start."""
    plan_dataset(folder / RAW, folder / PREPARED, PlannerSettings(**TINY), options=PlanOptions(processes=0))
    plans = PreparedDataset(folder / PREPARED).read_plans("tiny")
    preprocess_dataset(folder / RAW, plans, ["3d_fullres"], folder / PREPARED, PreprocessSettings(processes=0))
    return folder


def prepared(folder: Path) -> dict[str, bytes]:
    """Plans, fingerprint and arrays."""
    place = folder / PREPARED
    files = [place / "tiny.json", place / "dataset_fingerprint.json", *place.glob("*/*.b2nd"), *place.glob("*/*.npy")]
    assert len(files) > 10
    return {str(file.relative_to(place)): file.read_bytes() for file in files}


def command(folder: Path, *arguments: str) -> str:
    result = start(folder, *arguments)
    assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"
    return result.stdout + result.stderr


def values_in(folder: Path) -> set[int]:
    files = sorted(folder.glob("case_*.nii.gz"))
    assert files
    return {int(value) for file in files for value in np.unique(read(file))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short training on masks of 0, 4, 7, 9 and 255, some of them floats."""
    folder = make(tmp_path_factory.mktemp("own"), CT, [255, 4, 9, 7], [np.uint8, np.float32, np.uint16])
    assert "nothing is wrong" in command(folder, "doctor", f"dataset.path={RAW}", "processes=0")
    command(folder, "plan", f"dataset.path={RAW}", *(f"planner.{key}={value}" for key, value in TINY.items()))
    command(folder, "preprocess", f"dataset.path={RAW}", "plans=tiny", "configurations=3d_fullres", "processes=0")
    command(folder, "train", f"dataset.path={RAW}", "fold=0", *SHORT, "trainer.accelerator=cpu")
    return folder


def test_arrays_are_those_of_a_renumbered_copy(trained: Path, tmp_path: Path) -> None:
    labels = {"background": 0, "organ": 2, "tumour": 1, "ignore": 3}
    assert prepared(trained) == prepared(prepare(make(tmp_path, labels, [2, 1, 1, 3], [np.uint8])))


def test_regions_without_an_order_are_those_of_an_ordered_renumbered_copy(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}
    ours = make(tmp_path / "own", BRATS, [2, 1, 4], [np.uint8])
    copy = make(tmp_path / "copy", labels, [2, 1, 3], [np.uint8], regions_class_order=[2, 1, 3])
    assert prepared(prepare(ours)) == prepared(prepare(copy))


def test_predictions_hold_the_datasets_own_values_and_are_scored_in_them(trained: Path) -> None:
    assert values_in(trained / RUN / "fold_0" / "validation") <= {0, 4, 255}
    command(trained, "predict", f"model={RUN}", f"input={RAW}/imagesTr", "output=out", "inference.mirroring=false")
    assert values_in(trained / "out") <= {0, 4, 255}
    array = read(trained / RAW / "labelsTr" / "case_0.nii.gz")
    write(np.where(array == 9, 4, array), trained / "right" / "case_0.nii.gz")  # as it would be predicted
    command(trained, "evaluate", "prediction=right", f"reference={RAW}/labelsTr", f"labels={RAW}", "partial=true")
    summary = json.loads((trained / "right" / "summary.json").read_text())
    assert {key: scores["Dice"] for key, scores in summary["mean"].items()} == {"1": 1.0, "2": 1.0}


def test_an_exported_model_counts_0_1_2_and_leads_back(trained: Path) -> None:
    model = export_nnunet_model(trained / RUN, trained / "results")
    described = json.loads((model / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "organ": 2, "tumour": 1, "ignore": 3}
    assert described["label_values"] == [[0], [4, 9], [255], [7, 200]]
    back = import_nnunet_model(model, trained / "back")
    records = [Fold(run / "fold_0").read_record() for run in (trained / RUN, back)]
    assert records[0].dataset.labels == records[1].dataset.labels
    image = sitk.ReadImage(str(trained / RAW / "imagesTr" / "case_0_0000.nii.gz"))
    settings = SlidingWindowSettings(mirroring=False, sums="float32")
    loaded = (Predictor.load(path, device="cpu", settings=settings) for path in (trained / RUN, model))
    ours, theirs = (predictor.predict(image) for predictor in loaded)
    assert ours.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(*(sitk.GetArrayFromImage(label) for label in (ours, theirs)))
    assert set(np.unique(sitk.GetArrayFromImage(ours))) <= {0, 4, 255}


def test_a_value_without_a_name_is_told_as_it_stands_in_the_file(tmp_path: Path) -> None:
    make(tmp_path, {"background": 0, "organ": [4, 255]}, [4, 255, 9], [np.uint8])
    problems = check_dataset(tmp_path / RAW, read_description(tmp_path / RAW), reader_by_name("SimpleITKIO"))
    assert all("found [9]; expected only [0, 4, 255]" in problem.message for problem in problems)
    assert len(problems) == 5
    with pytest.raises(CaseErrors, match=r"found \[9\]; expected only \[0, 4, 255\]"):
        prepare(tmp_path)
