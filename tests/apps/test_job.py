"""The commands end to end on the phantom: what they write, and that starting them again does nothing twice."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from apps_commands import SHORT, TINY, start

from segflow.storage.folds import Fold

NAME = "Dataset001_Phantom"
RUN = Path("outputs") / NAME / "tinyPlans" / "3d_fullres" / "default" / "fold_0"


def test_planning_writes_nnunets_files(job: Path) -> None:
    folder = job / "data" / "preprocessed" / NAME
    plans = json.loads((folder / "tinyPlans.json").read_text())
    assert list(plans)[:3] == ["dataset_name", "plans_name", "original_median_spacing_after_transp"]
    assert "3d_fullres" in plans["configurations"]
    splits = json.loads((folder / "splits_final.json").read_text())
    assert len(splits) == 5
    assert not set(splits[0]["train"]) & set(splits[0]["val"])
    fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text())
    assert len(fingerprint["spacings"]) == 16


def test_a_trained_fold_has_all_that_the_design_promises(job: Path) -> None:
    run = job / RUN
    for name in ("run.json", "train.log", "metrics.csv", "progress.png", ".hydra/config.yaml", ".hydra/overrides.yaml"):
        assert (run / name).is_file(), name
    assert list(run.glob("events.*"))
    for name in ("last", "best", "final"):
        content = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert any(key.startswith("network.") for key in content["state_dict"])
    summary = json.loads((run / "validation" / "summary.json").read_text())
    assert sorted(summary) == ["foreground_mean", "mean", "metric_per_case"]
    record = json.loads((run / "run.json").read_text())
    assert len(summary["metric_per_case"]) == len(record["val_cases"]) == 4
    assert record["training_images"]["cases"] == 16
    assert not list(run.rglob(".writing-*"))


def test_tensorboard_receives_the_tags_of_the_design(job: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags: set[str] = set()
    for file in (job / RUN).glob("events.*"):
        accumulator = EventAccumulator(str(file))
        accumulator.Reload()
        tags |= set(accumulator.Tags()["scalars"])
    assert {
        "train/loss",
        "val/loss",
        "val/dice/liver",
        "val/dice/tumour",
        "val/dice_mean",
        "val/dice_ema",
        "lr",
        "final/dice_mean",
        "final/dice/tumour",
    } <= tags


def test_validation_overlays_the_images(job: Path) -> None:
    files = sorted((job / RUN / "validation").glob("*.nii.gz"))
    for file in (f for f in files if not f.name.count("_") > 1):
        image = sitk.ReadImage(str(job / "data/raw" / NAME / "imagesTr" / file.name.replace(".nii", "_0000.nii")))
        label = sitk.ReadImage(str(file))
        assert label.GetSize() == image.GetSize()
        assert np.allclose(label.GetSpacing(), image.GetSpacing())
        assert np.allclose(label.GetDirection(), image.GetDirection())


def test_the_same_command_again_says_that_it_is_done(job: Path) -> None:
    weights = job / RUN / "checkpoints" / "final.ckpt"
    before = weights.stat().st_mtime_ns
    result = start(job, "train", "fold=0", *SHORT, "save_probabilities=true")
    assert result.returncode == 0, result.stderr
    assert weights.stat().st_mtime_ns == before
    again = start(job, "preprocess", "plans=tinyPlans", "configurations=[3d_fullres]")
    assert again.returncode == 0
    assert "16 were up to date" in again.stdout


def test_other_settings_are_refused_with_the_difference(job: Path) -> None:
    result = start(job, "train", "fold=0", *SHORT, "save_probabilities=true", "optimizer.lr=0.5")
    assert result.returncode == 1
    assert "optimizer.lr was 0.01 and is now 0.5" in result.stderr
    assert "run_name" in result.stderr
    config = (job / RUN / ".hydra" / "config.yaml").read_text()
    assert "lr: 0.01" in config


def test_arrays_of_a_label_that_was_edited_since_are_refused_with_the_command_that_makes_them_anew(job: Path) -> None:
    label = job / "data/raw" / NAME / "labelsTr" / "phantom_003.nii.gz"
    content = label.read_bytes()
    image = sitk.ReadImage(str(label))
    sitk.WriteImage(image * 0, str(label))
    try:
        result = start(job, "train", "fold=4", *SHORT)
    finally:
        label.write_bytes(content)  # at another time, but with the same content
    assert result.returncode == 1
    assert "label of 'phantom_003'" in result.stderr
    assert "segflow preprocess dataset=phantom plans=tinyPlans 'configurations=[3d_fullres]'" in result.stderr
    assert not (job / RUN.with_name("fold_4") / "run.json").exists()


def test_a_second_command_in_the_folder_of_a_training_is_turned_away(job: Path) -> None:
    before = (job / RUN / "train.log").read_bytes()
    with Fold(job / RUN).locked():
        result = start(job, "train", "fold=0", *SHORT, "save_probabilities=true")
    assert result.returncode == 1
    assert f"found process {os.getpid()} on" in result.stderr
    assert "Traceback" not in result.stderr
    assert (job / RUN / "train.log").read_bytes() == before


def test_a_sweep_fills_the_folders_that_single_runs_would(job: Path) -> None:
    result = start(job, "train", "-m", "fold=1,2", *SHORT, "validation=false", "run_name=sweep")
    assert result.returncode == 0, result.stderr
    folder = job / RUN.parent.parent / "sweep"
    assert sorted(f.name for f in folder.iterdir()) == ["fold_1", "fold_2"]
    for fold in folder.iterdir():
        log = (fold / "train.log").read_text()
        assert f"fold {fold.name[-1]}:" in log
        assert not any(f"fold {other}:" in log for other in "0123456789" if other != fold.name[-1])


def test_a_sweep_over_two_devices_fills_the_same_folders_and_tells_each_thing_once(job: Path) -> None:
    two = ["trainer.devices=2", "trainer.accelerator=cpu", "run_name=two", "validation=false"]
    result = start(job, "train", "-m", "fold=0,1", *SHORT, *two)
    assert result.returncode == 0, result.stderr
    assert "sync_dist" not in result.stderr
    for fold in (0, 1):
        assert result.stderr.count(f"3d_fullres fold {fold}:") == 1
    folders = {file.parent for file in (job / "outputs").rglob("run.json") if "two" in file.parts}
    run = job / "outputs" / "Dataset001_Phantom" / "tinyPlans" / "3d_fullres" / "two"
    assert folders == {run / "fold_0", run / "fold_1"}
    assert all((folder / "finished.json").is_file() for folder in folders)


def test_a_training_in_bfloat16_from_end_to_end(job: Path) -> None:
    more = ["trainer.precision=bf16", "training.volume_every=1", "training.volume_count=1", "trainer.devices=-1"]
    result = start(job, "train", "fold=1", "run_name=bf16", *SHORT, *more)
    assert result.returncode == 0, result.stderr
    folder = job / RUN.parent.parent / "bf16" / "fold_1"
    assert json.loads((folder / "run.json").read_text())["machine"]["precision"] == "bf16-mixed"
    with (folder / "metrics.csv").open() as file:
        assert all(row["val_volume/dice_mean"] for row in csv.DictReader(file))
    assert "bf16-mixed on cpu" in (folder / "train.log").read_text()
    wrong = start(job, "train", "fold=1", "run_name=wrong", *SHORT, "trainer.devices=[0]", CUDA_VISIBLE_DEVICES="")
    assert wrong.returncode == 1
    told = [line for line in wrong.stderr.splitlines() if line.startswith("segflow train:")]
    assert len(told) == 1
    assert "names GPUs, and this training is on the CPU; found no GPU" in told[0]
    assert told[0].endswith("Type trainer.devices=1.")


def test_one_bad_job_of_a_sweep_does_not_stop_the_others(job: Path) -> None:
    result = start(job, "train", "-m", "fold.index=7,3", *SHORT, "validation=false", "run_name=half")
    assert result.returncode == 1
    assert "there is no fold 7" in result.stderr
    assert "Traceback" not in result.stderr
    assert (job / RUN.parent.parent / "half" / "fold_3" / "finished.json").is_file()


def test_predict_and_evaluate_take_plain_paths(job: Path) -> None:
    images = job / "data/raw" / NAME / "imagesTs"
    output = job / "my predictions (1)"
    result = start(job, "predict", f"model={RUN}", f"input={images}", f"output={output}", "inference.mirroring=false")
    assert result.returncode == 0, result.stderr
    assert "Predicted 4 cases" in result.stdout
    again = start(job, "predict", f"model={RUN}", f"input={images}", f"output={output}", "inference.mirroring=false")
    assert "4 were there already" in again.stdout
    scores = start(job, "evaluate", f"prediction={output}", f"reference={job / 'data/raw' / NAME / 'labelsTs'}")
    assert scores.returncode == 0, scores.stderr
    assert "liver" in scores.stdout
    assert "tumour" in scores.stdout
    assert (output / "summary.json").is_file()
    assert (output / "metrics.csv").is_file()


def test_the_commands_after_training(job: Path) -> None:
    """From one trained fold to an ensemble, postprocessing, a selection, and a model file that predicts the same."""
    raw = job / "data/raw" / NAME
    common = [f"input={raw / 'imagesTs'}", "inference.mirroring=false", "inference.probabilities=true"]
    for output in ("one", "two"):
        assert start(job, "predict", f"model={RUN}", f"output={output}", *common).returncode == 0
    result = start(job, "ensemble", "members=[one,two]", "output=both")
    assert result.returncode == 0, result.stderr
    for file in (job / "one").glob("phantom_*.nii.gz"):
        np.testing.assert_array_equal(
            sitk.GetArrayFromImage(sitk.ReadImage(str(file))),
            sitk.GetArrayFromImage(sitk.ReadImage(str(job / "both" / file.name))),
        )
    choose = ["postprocess", "action=choose", f"prediction={RUN / 'validation'}", f"reference={raw / 'labelsTr'}"]
    result = start(job, *choose, "output=steps")
    assert result.returncode == 0, result.stderr
    apply = ["postprocess", "action=apply", "prediction=both", "choice=steps/postprocessing.json", "output=final"]
    result = start(job, *apply)
    assert result.returncode == 0, result.stderr
    assert len(list((job / "final").glob("*.nii.gz"))) == 4
    result = start(job, "select", f"runs=[{RUN.parent}]")
    assert result.returncode == 0, result.stderr
    assert "segflow predict model=" in result.stdout
    for action in (
        ["bundle", "action=export", f"model={RUN}", "output=phantom.segflow"],
        ["predict", "model=phantom.segflow", "output=of_bundle", *common[:2]],
    ):
        result = start(job, *action)
        assert result.returncode == 0, result.stderr
    for file in (job / "one").glob("phantom_*.nii.gz"):
        assert file.read_bytes() == (job / "of_bundle" / file.name).read_bytes()
    result = start(job, "doctor")
    assert result.returncode == 0, result.stderr
    assert "nothing is wrong" in result.stdout


def test_predicting_one_bad_file_leaves_the_others(job: Path, tmp_path: Path) -> None:
    images = job / "data/raw" / NAME / "imagesTs"
    source = tmp_path / "input"
    source.mkdir()
    good, bad = sorted(images.iterdir())[:2]
    (source / good.name).write_bytes(good.read_bytes())
    (source / bad.name).write_bytes(bad.read_bytes()[:2000])
    output = tmp_path / "out"
    result = start(job, "predict", f"model={RUN}", f"input={source}", f"output={output}", "inference.mirroring=false")
    assert result.returncode == 1
    assert bad.name.removesuffix("_0000.nii.gz") in result.stderr
    assert "Traceback" not in result.stderr
    assert [f.name for f in output.glob("*.nii.gz")] == [good.name.replace("_0000", "")]


@pytest.mark.parametrize("configuration", ["2d"])
def test_two_dimensions_go_the_same_way(job: Path, configuration: str) -> None:
    for arguments in (
        ["preprocess", "plans=tinyPlans", f"configurations=[{configuration}]"],
        ["train", "fold=0", f"configuration={configuration}", *SHORT],
    ):
        result = start(job, *arguments)
        assert result.returncode == 0, result.stderr
    assert "mean" in result.stdout


def test_the_demo_runs_the_whole_job(tmp_path: Path) -> None:
    result = start(tmp_path, "demo", *TINY, *SHORT)
    assert result.returncode == 0, result.stderr
    for text in ("liver", "tumour", "progress.png", "predictions"):
        assert text in result.stdout


def test_plans_and_weights_go_to_another_dataset_with_other_labels(job: Path) -> None:
    raw = job / "data" / "raw" / NAME
    other = raw.with_name("Dataset002_Other")
    for case in range(6):  # the same kind of images; only the tumour is a label, and there are two further ones
        name = sorted(file.name for file in (raw / "labelsTr").iterdir())[case]
        (other / "imagesTr").mkdir(parents=True, exist_ok=True)
        (other / "labelsTr").mkdir(exist_ok=True)
        image = name.replace(".nii.gz", "_0000.nii.gz")
        (other / "imagesTr" / image).symlink_to(raw / "imagesTr" / image)
        label = sitk.ReadImage(str(raw / "labelsTr" / name))
        sitk.WriteImage(sitk.Cast(label > 1, sitk.sitkUInt8), str(other / "labelsTr" / name))
    labels = {"background": 0, "tumour": 1, "cyst": 2, "vessel": 3}
    description = json.loads((raw / "dataset.json").read_text()) | {"labels": labels, "numTraining": 6}
    (other / "dataset.json").write_text(json.dumps(description))
    dataset = f"dataset.path={other}"
    plans = job / "data" / "preprocessed" / NAME / "tinyPlans.json"
    told = start(job, "plan", dataset, f"from_plans={plans}", "planner.plans_name=tinyPlans", "processes=0")
    assert told.returncode == 0, told.stderr
    assert f"taken over from 'tinyPlans' of {NAME}" in told.stdout
    assert start(job, "preprocess", dataset, "plans=tinyPlans", "configurations=3d_fullres").returncode == 0
    fine = ["experiment=fine_tune", f"training.initial_weights={(job / RUN).parent}"]
    quick = ["validation=false", "trainer.max_epochs=1", "schedule.warmup_epochs=0"]
    trained = start(job, "train", dataset, "fold=0", *SHORT, *fine, *quick)
    assert trained.returncode == 0, trained.stderr
    own, source = (
        torch.load(job / "outputs" / name / RUN.relative_to(Path("outputs") / NAME) / "checkpoints" / "final.ckpt")
        for name in ("Dataset002_Other", NAME)
    )
    same = {key for key, value in own["state_dict"].items() if value.shape == source["state_dict"][key].shape}
    heads = {key for key in own["state_dict"] if ".heads." in key}
    assert set(own["state_dict"]) - same == heads
    log = (job / "outputs" / "Dataset002_Other" / RUN.relative_to(Path("outputs") / NAME) / "train.log").read_text()
    assert f"{len(same)} tensors copied" in log
    assert all(f"initial weights skipped: {key.removeprefix('network.')}" in log for key in heads)
