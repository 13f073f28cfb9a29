"""Every command names its next one, with what exists, in a line that can be pasted as it stands."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models
from apps_commands import SHORT, TINY, start

from segflow.apps import _edge, _first_words, _next
from segflow.apps._records import PathSettings

CONF = Path(__file__).resolve().parents[2] / "conf"


def next_lines(result: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Words of the lines that a command named as its next ones, behind ``segflow``."""
    assert result.returncode == 0, result.stderr
    lines = [line.partition("Next: ")[2] for line in result.stdout.splitlines() if "Next: " in line]
    assert lines, result.stdout
    return [words(line) for line in lines]


def words(line: str) -> list[str]:
    """A line as a shell takes it apart."""
    first, *rest = shlex.split(line)
    assert first == "segflow"
    return rest


def taken(line: str) -> Any:
    """The settings that a line composes; fails where it cannot be pasted."""
    command, *arguments = words(line)
    _first_words.check(command, arguments, [CONF])
    return _edge.compose(command, *[argument for argument in arguments if argument != "-m"])


def make_dataset(folder: Path, cases: int, shape: tuple[int, ...]) -> None:
    """A raw dataset of random images, three-dimensional or single slices."""
    generator = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    for case in range(cases + 1):
        part = "Tr" if case < cases else "Ts"
        image = generator.normal(100, 20, shape).astype(np.float32)
        label = np.zeros(shape, np.uint8)
        label[..., 4:12, 4:12] = 1
        sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / f"images{part}" / f"case_{case}_0000.nii.gz"))
        sitk.WriteImage(sitk.GetImageFromArray(label), str(folder / f"labels{part}" / f"case_{case}.nii.gz"))
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "thing": 1}, "numTraining": cases}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))


@pytest.mark.parametrize(
    ("cases", "shape", "planner", "plans", "expected"),
    [
        (3, (8, 16, 16), "resenc_m", "nnUNetResEncUNetMPlans", ["configuration=3d_fullres", "fold=all"]),
        (5, (1, 32, 32), "mednext_s", "segflowMedNeXtSPlans", ["configuration=2d", "fold=0", "optimizer=adamw"]),
    ],
)
def test_a_dataset_leads_to_a_configuration_and_a_fold_that_are_there(
    cases: int, shape: tuple[int, ...], planner: str, plans: str, expected: list[str], tmp_path: Path
) -> None:
    raw = tmp_path / "my data" / "Dataset009_Small"
    make_dataset(raw, cases, shape)
    checked = start(tmp_path, "doctor", f"dataset.path={raw}", "processes=0")
    (plan,) = next_lines(checked)
    assert plan == ["plan", f"dataset.path={raw}"] or plan[0] == "plan"
    planned = start(tmp_path, *plan, f"planner={planner}", "processes=0")
    (preprocess,) = next_lines(planned)
    assert f"plans={plans}" in preprocess
    preprocessed = start(tmp_path, *preprocess, "processes=0")
    (train,) = next_lines(preprocessed)
    assert train[0] == "train"
    assert set(expected) <= set(train)
    composed = start(tmp_path, *train, "--cfg", "job")
    assert composed.returncode == 0, composed.stderr
    assert f"plans: {plans}" in composed.stdout


def test_each_line_is_pasted_from_the_plan_to_the_steps(tmp_path: Path) -> None:
    planned = start(tmp_path, "plan", *TINY, "fold.folds=2", "paths.outputs=my runs")
    (preprocess,) = next_lines(planned)
    preprocessed = start(tmp_path, *preprocess, "configurations=3d_fullres")
    (train,) = next_lines(preprocessed)
    assert "paths.outputs=my runs" in train
    short = [word for word in SHORT if not word.startswith("plans=")]
    trained = start(tmp_path, *train, *short)
    again, predict = next_lines(trained)
    assert again[0] == "train"
    assert "fold=1" in again
    assert set(short) <= set(again)
    last, last_predict = next_lines(start(tmp_path, *again))
    assert last[0] == "select"
    assert last_predict[1].endswith("default")  # the whole run
    selected = next_lines(start(tmp_path, *last))
    assert selected[0][0] == "predict"
    (evaluate,) = next_lines(start(tmp_path, *predict))
    (choose,) = next_lines(start(tmp_path, *evaluate))
    chosen = start(tmp_path, *choose)
    assert choose[:2] == ["postprocess", "action=choose"]
    assert chosen.returncode == 0, chosen.stderr
    if "Next: " in chosen.stdout:
        (scored,) = next_lines(start(tmp_path, *next_lines(chosen)[0]))
        assert start(tmp_path, *scored).returncode == 0
    run = next(word for word in last_predict if word.startswith("model=")).removeprefix("model=")
    (export,) = next_lines(start(tmp_path, "report", f"run={run}", "paths.outputs=my runs"))
    (with_bundle,) = next_lines(start(tmp_path, *export))
    assert with_bundle[0] == "predict"
    assert start(tmp_path, *with_bundle, "inference.mirroring=false").returncode == 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny run, and the test images of its dataset with references."""
    for name in ("SEGFLOW_RAW", "SEGFLOW_PREPROCESSED", "SEGFLOW_OUTPUTS", "nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("imagesTs", "labelsTs"):
        folder = tmp_path / "data" / "raw" / tiny_models.DATASET / name
        folder.mkdir(parents=True)
        (folder / "a.nii.gz").write_bytes(b"")
    return tmp_path


def test_a_model_leads_to_the_test_images_of_its_dataset(place: Path) -> None:
    run = tiny_models.make_run(place / "outputs")
    (line,) = _next.with_model(run, PathSettings())
    settings = taken(line)
    assert settings.model.is_dir()
    assert [folder.is_dir() for folder in settings.input] == [True]
    (evaluate,) = _next.after_predict(settings)
    scored = taken(evaluate)
    assert scored.prediction == settings.output
    assert scored.reference.is_dir()


def test_without_references_the_model_says_what_follows(place: Path) -> None:
    run = tiny_models.make_run(place / "outputs")
    settings = taken(_next.with_model(run, PathSettings())[0])
    alone = replace(settings, input=[place / "elsewhere"])
    (line,) = _next.after_predict(alone)
    (reported,) = taken(line).run
    assert Path(reported).is_dir()
    choice = (run if not run.name.startswith("fold_") else run.parent) / "crossval" / "postprocessing.json"
    choice.parent.mkdir(parents=True)
    choice.write_text("{}")
    (line,) = _next.after_predict(alone)
    applied = taken(line)
    assert applied.choice == choice
    assert applied.prediction == settings.output


def test_a_selection_names_the_folders_in_place_of_words(place: Path) -> None:
    commands = (
        "segflow predict model=runs/INPUT input=INPUT output=OUTPUT/member_1",
        "segflow ensemble 'members=[OUTPUT/member_1,OUTPUT/member_2]' output=OUTPUT",
    )
    images = Path("data/raw/X/imagesTs")
    first, second = _next.after_selection(commands, "X", images, PathSettings())
    folder = "outputs/X/predictions/selected"
    assert words(first) == ["predict", "model=runs/INPUT", f"input={images}", f"output={folder}/member_1"]
    assert words(second) == ["ensemble", f"members=[{folder}/member_1,{folder}/member_2]", f"output={folder}"]
    assert _next.after_selection(commands, "X", None, PathSettings()) == []
    assert _next.after_selection(commands, "X", Path("images (1)"), PathSettings()) == []
