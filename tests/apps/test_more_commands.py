"""``segflow run`` from a raw dataset to chosen predictions, killed on the way; and what can be done with its runs."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from apps_commands import PATHS, TINY, start

from segflow.apps import _edge, _run_jobs
from segflow.apps import run as run_command
from segflow.core.plans import Plans
from segflow.core.selection import Selection
from segflow.storage.json_files import read_json

NAME = "Dataset001_Phantom"
OUTPUTS = Path("outputs") / NAME
RUNS = OUTPUTS / "tinyPlans"
SHORT = [
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "inference.mirroring=false",
]
RUN = ["run", "configuration=auto", "fold=all", "fold.folds=2", *TINY, *SHORT]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """A folder in which ``segflow run`` was killed after its first fold and started again.

    Returns:
        The folder, what the second start said, and when the first fold's weights were written.
    """
    folder = tmp_path_factory.mktemp("run")
    weights = folder / RUNS / "2d" / "default" / "fold_0" / "checkpoints" / "final.ckpt"
    environment = {key: value for key, value in os.environ.items() if key not in PATHS}
    command = [sys.executable, "-m", "segflow.apps.main", *RUN]
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        while not (weights.parent.parent / "finished.json").is_file() and first.poll() is None:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL, (folder / "first.log").read_text()
    written = weights.stat().st_mtime_ns
    second = start(folder, *RUN)
    assert second.returncode == 0, second.stderr
    return folder, second.stdout, written


def label_maps(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in sorted(folder.glob("*.nii.gz"))}


def test_a_killed_run_goes_on_to_the_end(finished: tuple[Path, str, int]) -> None:
    folder, said, written = finished
    assert (folder / RUNS / "2d/default/fold_0/checkpoints/final.ckpt").stat().st_mtime_ns == written
    for configuration in ("2d", "3d_fullres"):
        for fold in (0, 1):
            assert (folder / RUNS / configuration / "default" / f"fold_{fold}" / "validation/summary.json").is_file()
    selection = Selection.from_json(read_json(folder / OUTPUTS / "selection.json"))
    assert {candidate.name for candidate in selection.candidates} == {"2d", "3d_fullres", "2d + 3d_fullres"}
    assert len(selection.cases) == 16
    for command in selection.commands:
        assert command in said
    predicted = next(line for line in said.splitlines() if line.startswith("Predictions")).split()[1]
    assert len(label_maps(folder / predicted)) == 4
    page = (folder / OUTPUTS / "report.html").read_text()
    assert "2d + 3d_fullres" in page
    assert page.count('"voxels":') > 4  # cases that can be looked at


def test_a_fold_that_fails_is_named_and_the_others_go_on(finished: tuple[Path, str, int]) -> None:
    folder, _, _ = finished
    common = ["configuration=2d", "run_name=part", "validation=false"]
    result = start(folder, *RUN, *common, "fold.index=[7,1]")
    assert result.returncode == 1
    assert "2d fold 7: there is no fold 7" in result.stderr
    assert "Traceback" not in result.stderr
    assert (folder / RUNS / "2d/part/fold_1/finished.json").is_file()
    # Alone it cannot be selected, since its cases have no scores; the message says how it gets them.
    shutil.copytree(folder / RUNS / "2d/part", folder / "unscored" / NAME / "tinyPlans" / "2d" / "part")
    result = start(folder, "select", "paths.outputs=unscored")
    assert result.returncode == 1
    assert f"no run of {NAME} has scores of its validation cases; found tinyPlans/2d/part." in result.stderr
    assert "validation=true" in result.stderr


def test_folds_that_are_jobs_are_those_of_one_process(finished: tuple[Path, str, int]) -> None:
    folder, _, _ = finished
    own = [*RUN, "configuration=2d", "trainer.accelerator=cpu", "paths.outputs=of_jobs", "hydra/launcher=gpus"]
    for said in (": running", "4/6 select"):
        result = start(folder, *own, CUDA_VISIBLE_DEVICES="0,1")
        assert result.returncode == 0, result.stderr
        assert said in result.stderr
    assert ": running" not in result.stderr  # the second start has nothing to train
    run = Path(*RUNS.parts[1:]) / "2d" / "default" / "crossval"
    maps, others = (label_maps(folder / outputs / run) for outputs in ("of_jobs", RUNS.parts[0]))
    assert len(maps) == 16
    for name, label in maps.items():
        np.testing.assert_array_equal(label, others[name])
    assert not (folder / "of_jobs/.jobs").exists()


def test_run_trains_folds_on_several_devices(finished: tuple[Path, str, int]) -> None:
    folder, _, _ = finished
    own = ["configuration=2d", "trainer.accelerator=cpu", "trainer.devices=2", "fold.index=[0]", "run_name=devices"]
    result = start(folder, *RUN, *own, "validation=false")
    assert "2d/0: done" in result.stderr, result.stderr
    run = read_json(folder / RUNS / "2d/devices/fold_0/run.json")
    assert run["settings"]["trainer"]["devices"] == 2
    assert (folder / RUNS / "2d/devices/fold_0/finished.json").is_file()


def test_jobs_of_a_cascade_wait_for_the_folds_that_it_builds_on() -> None:
    previous = {"2d": None, "3d_lowres": None, "3d_cascade_fullres": "3d_lowres"}
    assert list(_run_jobs.waves(previous)) == [["2d", "3d_lowres"], ["3d_cascade_fullres"]]


def test_train_knows_what_run_has_trained(finished: tuple[Path, str, int]) -> None:
    folder, _, written = finished
    result = start(folder, "train", "configuration=2d", "fold=0", "fold.folds=2", "plans=tinyPlans", *SHORT)
    assert result.returncode == 0, result.stderr
    assert (folder / RUNS / "2d/default/fold_0/checkpoints/final.ckpt").stat().st_mtime_ns == written


@pytest.fixture
def composed_run(finished: tuple[Path, str, int], monkeypatch: pytest.MonkeyPatch) -> run_command.Run:
    """The configuration of the finished run, in its folder."""
    monkeypatch.chdir(finished[0])
    for name in PATHS:
        monkeypatch.delenv(name, raising=False)
    return _edge.compose("run", "fold=all", *TINY, *SHORT)


def test_a_chosen_ensemble_predicts_what_its_commands_would(composed_run: run_command.Run, tmp_path: Path) -> None:
    selection = Selection.from_json(read_json(OUTPUTS / "selection.json"))
    both = next(candidate for candidate in selection.candidates if len(candidate.runs) == 2)
    nothing = tmp_path / "postprocessing.json"
    nothing.write_text('{"steps": []}')
    chosen = replace(selection, candidates=(both,), postprocessing=str(nothing))
    images = Path("data/raw") / NAME / "imagesTs"
    output = run_command.apply_selection(composed_run, chosen, images, tmp_path / "out")
    assert output == tmp_path / "out"
    members = [output / "member_1", output / "member_2"]
    assert all(len(label_maps(folder)) == 4 for folder in (output, *members))
    first_only = start(Path(), "ensemble", f"members=[{members[0]},{members[1]}]", "weights=[1,0]", "output=first")
    assert first_only.returncode == 0, first_only.stderr
    weighted = label_maps(Path("first"))
    assert len(weighted) == 4
    for name, label in weighted.items():
        np.testing.assert_array_equal(label, label_maps(members[0])[name])
    wrong = start(Path(), "ensemble", f"members=[{members[0]},{members[1]}]", "weights=[1]", "output=wrong")
    assert wrong.returncode == 1
    assert "one weight per member" in wrong.stderr


def test_a_report_and_postprocessing_of_a_run_need_its_folder_only(finished: tuple[Path, str, int]) -> None:
    folder, _, _ = finished
    run = RUNS / "3d_fullres" / "default"
    result = start(folder, "report", f"run={run}")
    assert result.returncode == 0, result.stderr
    page = (folder / run / "report.html").read_text()
    assert "hd95_mm" in page  # computed for the page
    assert "<dt>folds</dt><dd>0, 1</dd>" in page
    one = start(folder, "report", f"run={run / 'fold_0'}", "output=one.html", "paths.raw=nowhere")
    assert one.returncode == 0, one.stderr
    page = (folder / "one.html").read_text()
    assert "<dt>folds</dt><dd>0</dd>" in page
    assert "no pictures of cases" in page
    result = start(folder, "postprocess", "action=choose", f"run={run}", "output=steps")
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "steps" / "postprocessing.json").read_text())["cases"] == 16


def test_a_model_goes_to_nnunet_and_back(finished: tuple[Path, str, int]) -> None:
    folder, _, _ = finished
    run = RUNS / "2d" / "default"
    export = ["bundle", "action=export", "format=nnunet", f"model={run}", "output=model.zip"]
    assert start(folder, *export).returncode == 0
    bring = ["bundle", "action=import", "model=model.zip", "run_name=back"]
    result = start(folder, *bring)
    assert result.returncode == 0, result.stderr
    assert sorted(f.name for f in (folder / RUNS / "2d" / "back").iterdir()) == ["fold_0", "fold_1"]
    again = start(folder, *bring)
    assert again.returncode == 1
    assert "another run_name" in again.stderr
    images = f"input=data/raw/{NAME}/imagesTs"
    for model, output in ((run, "own"), (RUNS / "2d" / "back", "returned")):
        # What comes from nnU-Net's format is otherwise summed as nnU-Net sums.
        alike = ("inference=no_mirroring", "inference.sums=float32")
        result = start(folder, "predict", f"model={model}", images, f"output={output}", *alike)
        assert result.returncode == 0, result.stderr
    own, returned = label_maps(folder / "own"), label_maps(folder / "returned")
    assert len(own) == 4
    for name, label in own.items():
        np.testing.assert_array_equal(label, returned[name])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("auto", ["2d", "3d_lowres", "3d_cascade_fullres"]),
        ("2d", ["2d"]),
        (["3d_cascade_fullres", "2d"], ["3d_lowres", "3d_cascade_fullres", "2d"]),
    ],
)
def test_a_cascade_comes_after_what_it_builds_on(
    wanted: str | list[str], expected: list[str], finished: tuple[Path, str, int]
) -> None:
    content = json.loads((finished[0] / "data/preprocessed" / NAME / "tinyPlans.json").read_text())
    full = content["configurations"]["3d_fullres"]
    content["configurations"] = {
        "2d": content["configurations"]["2d"],
        "3d_cascade_fullres": {**full, "previous_stage": "3d_lowres"},
        "3d_lowres": {**full, "next_stage": "3d_cascade_fullres"},
    }
    assert run_command.chosen_configurations(wanted, Plans.from_json(content)) == expected


def write(array: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Images and label maps of five cases, in folders imagesTr and labelsTr, one file each."""
    folder = tmp_path / "Task09_Small"
    generator = np.random.default_rng(0)
    for number in range(5):
        write(generator.normal(size=(4, 8, 8)).astype(np.float32), folder / "imagesTr" / f"case_{number}.nii.gz")
        label = np.zeros((4, 8, 8), np.uint8)
        label[1:3, 2:6, 2:6] = 1
        label[1, 2:4, 2:4] = 2
        write(label, folder / "labelsTr" / f"case_{number}.nii.gz")
    description = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "organ", "2": "tumour"}}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize("kind", ["decathlon", "nnunet_v1", "csv", "renumber"])
def test_every_kind_of_source_is_recognised_and_becomes_a_sound_dataset(kind: str, files: Path, tmp_path: Path) -> None:
    arguments = [f"source={files}"]
    if kind in ("nnunet_v1", "renumber"):
        for image in list((files / "imagesTr").iterdir()):
            image.rename(image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")))
    if kind == "renumber":
        labels = {"background": 0, "organ": 1, "tumour": 2, "vessel": 255}
        described = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 5, "file_ending": ".nii.gz"}
        (files / "dataset.json").write_text(json.dumps(described))
        arguments.append("dataset_id=9")
    if kind == "csv":
        with (tmp_path / "my files.csv").open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["case", "MRI", "label"])
            for image in (files / "imagesTr").iterdir():
                table.writerow([image.name[:6], image, files / "labelsTr" / image.name])
        arguments = ["source=my files.csv", "dataset_id=9", "name=Small", "labels={background:0,organ:[1,2],tumour:2}"]
        assert "dataset_id=42" in start(tmp_path, "convert", arguments[0]).stderr
        arguments.append("regions_class_order=[1,2]")
    result = start(tmp_path, "convert", *arguments)
    assert result.returncode == 0, result.stderr
    description = json.loads((tmp_path / "data/raw/Dataset009_Small/dataset.json").read_text())
    assert list(description["labels"])[:3] == ["background", "organ", "tumour"]
    assert description["channel_names"] == {"0": "MRI"}
    result = start(tmp_path, "doctor", "dataset=9", "processes=0")
    assert result.returncode == 0, result.stdout
    assert "nothing is wrong" in result.stdout


def test_a_conversion_does_not_replace_a_dataset(files: Path, tmp_path: Path) -> None:
    existing = tmp_path / "data/raw/Dataset009_Other"
    shutil.copytree(files, existing)
    result = start(tmp_path, "convert", f"source={files}")
    assert result.returncode == 1
    assert "another dataset_id" in result.stderr
    assert [f.name for f in existing.parent.iterdir()] == [existing.name]


def test_label_maps_alone_are_postprocessed_by_a_description_from_elsewhere(files: Path, tmp_path: Path) -> None:
    maps = shutil.copytree(files / "labelsTr", tmp_path / "alone" / "maps")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1, "tumour": 2}}
    (elsewhere / "dataset.json").write_text(json.dumps({**description, "numTraining": 5, "file_ending": ".nii.gz"}))
    (tmp_path / "steps.json").write_text('{"steps": [{"kind": "keep_largest", "labels": [1, 2]}]}')
    apply = ["postprocess", "action=apply", f"prediction={maps}", "choice=steps.json", "output=out"]
    assert "labels=" in start(tmp_path, *apply).stderr
    result = start(tmp_path, *apply, f"labels={elsewhere}")
    assert result.returncode == 0, result.stderr
    assert len(label_maps(tmp_path / "out")) == 5
