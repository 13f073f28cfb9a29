"""``shards=`` and ``inference.devices=``: jobs that share the cases of a command make the files of one process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tiny_models
from apps_commands import start

from segflow.apps import _edge, _shards, predict, preprocess
from segflow.apps._typed_again import as_arguments
from segflow.core.errors import SegflowError
from segflow.storage.case_index import INDEX_FILE

TIMES = ("time_ns", "change_ns")
NORMAL = ["paths.raw=raw", "paths.preprocessed=preprocessed", "dataset.path=raw/Dataset900_Tiny"]

OWN = '''
import os, signal, sys
from pathlib import Path
from segflow.network.build import build_network

def in_part(part):
    return Path("armed").exists() and any(word.endswith(f"part={part}") for word in sys.argv)

def killed_network(*arguments, **options):
    """The planned network, whose process is killed in the second case of part 1/2."""
    network = build_network(*arguments, **options)
    calls = []
    def count(*_):
        calls.append(1)
        if in_part("1/2") and len(calls) > 1:
            os.kill(os.getpid(), signal.SIGKILL)
    network.register_forward_pre_hook(count)
    return network

def killed_metric(prediction, reference, spacing):
    """The number of voxels; the process of part 0/2 is killed in its second case."""
    killed_metric.calls = getattr(killed_metric, "calls", 0) + 1
    if in_part("0/2") and killed_metric.calls > 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(prediction.sum())
'''


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return value


def contents(folder: Path) -> dict[str, Any]:
    """All files but indices, which hold times; of stamps all but the times of files."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != INDEX_FILE:
            text = json.loads(file.read_text()) if file.parent.name == ".segflow" else None
            found[str(file.relative_to(folder))] = file.read_bytes() if text is None else without_times(text)
    return found


def write(file: Path, seed: int, *, label: bool = False, scale: float = 1.0) -> None:
    random = np.random.default_rng(seed)
    shape = (12, 18, 17)
    voxels = random.integers(0, 3, shape, np.uint8) if label else (scale * random.normal(50, 10, shape)).astype("f4")
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(file))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to start commands in, with parts of a user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shards_own.py").write_text(OWN)
    return tmp_path


def make_dataset(home: Path, cases: Sequence[str]) -> None:
    """A raw dataset with plans."""
    raw, prepared = home / "raw" / tiny_models.DATASET, home / "preprocessed" / tiny_models.DATASET
    for seed, case in enumerate(cases):
        write(raw / "imagesTr" / f"{case}_0000.nii.gz", seed)
        write(raw / "labelsTr" / f"{case}.nii.gz", seed, label=True)
    description = json.dumps({**tiny_models.dataset_json(), "numTraining": len(cases)})
    prepared.mkdir(parents=True)
    for folder in (raw, prepared):
        (folder / "dataset.json").write_text(description)
    (prepared / "nnUNetPlans.json").write_text(json.dumps(tiny_models.plans().to_json()))


def test_preprocessing_by_joblib_makes_the_files_of_one_process(home: Path) -> None:
    make_dataset(home, ["a", "b", "c"])
    (home / "raw" / tiny_models.DATASET / "imagesTr" / "b_0000.nii.gz").write_text("I am no image")
    write(home / "raw" / tiny_models.DATASET / "imagesTr" / "c_0000.nii.gz", 2, scale=1e25)
    words = [*NORMAL, "configurations=[2d,3d_lowres]", "processes=0"]
    result = start(home, "preprocess", *words, "shards=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert result.returncode == 1
    assert "segflow preprocess: some cases could not be preprocessed (1 problem):\n  - case 'b': " in result.stderr
    assert "2 cases preprocessed for nnUNetPlans_2d, nnUNetPlans_3d_lowres; 1 failed: b." in result.stdout
    assert result.stderr.count("1 case holds values that no measurement gives. Case 'c'") == 1  # of a job
    made = contents(home / "preprocessed")
    (home / "preprocessed").rename(home / "shared")
    make_plans = home / "preprocessed" / tiny_models.DATASET
    make_plans.mkdir(parents=True)
    for name in ("dataset.json", "nnUNetPlans.json"):
        (make_plans / name).write_bytes((home / "shared" / tiny_models.DATASET / name).read_bytes())
    with pytest.raises(SegflowError, match="case 'b'"):
        preprocess.preprocess(_edge.compose("preprocess", *words))
    assert contents(home / "preprocessed") == made


def test_prediction_by_more_shards_than_cases_makes_the_folder_of_one_process(home: Path) -> None:
    tiny_models.make_run(home, "3d_lowres")
    run = tiny_models.make_run(home, "3d_cascade_fullres", folds=(0, 1))
    for seed, case in enumerate("ab"):
        write(home / "images" / f"{case}_0000.nii.gz", seed)
    words = [f"model={run}", "input=images", "output=out", "mirroring=false", "probabilities=true"]
    result = start(home, "predict", *words, "shards=9")
    assert result.returncode == 0, result.stderr
    assert "part=1/2: done" in result.stderr
    assert "Predicted 2 cases. Written to out." in result.stdout
    (home / "out").rename(home / "shared")
    assert predict.predict(_edge.compose("predict", *words)).done == ("a", "b")
    assert contents(home / "out") == contents(home / "shared")


def test_a_device_whose_process_is_killed_is_named_and_its_cases_are_predicted_later(home: Path) -> None:
    run = tiny_models.make_run(home)
    for seed, case in enumerate("abcd"):
        write(home / "images" / f"{case}_0000.nii.gz", seed)
    own = ["network._target_=shards_own.killed_network", "network._partial_=true"]
    words = [f"model={run}", "input=images", "output=out", "mirroring=false", "overlap=0", *own]
    (home / "armed").touch()
    result = start(home, "predict", *words, "devices=[cpu,cpu]")
    assert result.returncode == 1
    assert "- part=1/2 ended before it was done: killed by SIGKILL" in result.stderr
    assert "part=0/2: done" in result.stderr
    before = {file.name: file.stat().st_mtime_ns for file in (home / "out").glob("*.nii.gz")}
    assert {"a.nii.gz", "c.nii.gz"} <= before.keys()
    assert "d.nii.gz" not in before
    (home / "armed").unlink()
    again = start(home, "predict", *words, "devices=[cpu,cpu]")
    assert again.returncode == 0, again.stderr
    assert f"{len(before)} were there already" in again.stdout
    assert "part=0/2" not in again.stderr
    after = {file.name: file.stat().st_mtime_ns for file in (home / "out").glob("*.nii.gz")}
    assert before.items() <= after.items()
    (home / "out").rename(home / "shared")
    predict.predict(_edge.compose("predict", *words))
    assert contents(home / "out") == contents(home / "shared")


def test_a_killed_shard_of_an_evaluation_is_named_and_its_cases_are_scored_later(home: Path) -> None:
    for seed, case in enumerate("abcde"):
        write(home / "pred" / f"{case}.nii.gz", seed, label=True)
        write(home / "ref" / f"{case}.nii.gz", seed + 9, label=True)
    (home / "ref" / "dataset.json").write_text(json.dumps(tiny_models.dataset_json()))
    own = "metrics={size: {_target_: shards_own.killed_metric}}"
    words = ["prediction=pred", "reference=ref", own, "processes=0"]
    (home / "armed").touch()
    result = start(home, "evaluate", *words, "output=shared", "shards=2")
    assert result.returncode == 1
    assert "- part=0/2 ended before it was done: killed by SIGKILL" in result.stderr
    assert "left: 2 cases, c, e" in result.stderr
    kept = home / "shared" / ".segflow" / "scores"
    assert sorted(file.name for file in kept.glob("*.json")) == ["a.json", "b.json", "d.json"]
    (home / "armed").unlink()
    again = start(home, "evaluate", *words, "output=shared", "shards=2")
    assert again.returncode == 0, again.stderr
    assert "part=1/2" not in again.stderr
    one = start(home, "evaluate", *words, "output=one")
    assert again.stdout.replace("shared", "one") == one.stdout
    assert contents(home / "shared") == contents(home / "one")


@pytest.mark.parametrize(
    ("command", "word", "problem"),
    [
        ("preprocess", "shards=0", "shards must be at least 1"),
        ("preprocess", "part=5/3", "part must be k/n"),
        ("evaluate", "part=5/3", "part must be k/n"),
        ("predict", "shards=two", "'shards' has the wrong type"),
        ("predict", "shards=-1", "shards must be at least 1"),
        ("predict", "devices=[]", "names no device"),
        ("run", "shards=0", "shards must be at least 1"),
    ],
)
def test_impossible_numbers_are_refused(command: str, word: str, problem: str) -> None:
    with pytest.raises(SegflowError, match=problem):
        _edge.compose(command, word)


def test_one_device_and_several_are_not_both_taken() -> None:
    with pytest.raises(SegflowError, match=r"both inference.device and inference.devices"):
        _edge.compose("predict", "device=cuda", "devices=auto")


def test_devices_are_the_gpus_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    for asked in ("auto", "2", ["0", "1"], ["cuda:0", "cuda:1"]):
        assert _shards.named_devices(asked) == ["cuda:0", "cuda:1"]
    shards = _shards.of_devices(_edge.compose("predict", "devices=[1,cpu]"))
    assert shards is not None
    gpu, cpu = shards.places
    assert (gpu.settings["inference__device"], gpu.environment["CUDA_VISIBLE_DEVICES"]) == ("cuda", "5")
    assert (cpu.settings["inference__device"], "CUDA_VISIBLE_DEVICES" in cpu.environment) == ("cpu", False)
    for asked in ("3", ["2"], ["cuda:7"]):
        with pytest.raises(SegflowError, match="expected 2 GPUs, counted from 0"):
            _shards.named_devices(asked)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _shards.named_devices("auto") == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("preprocess", ["dataset=42", "configurations=[2d,3d_fullres]", "processes=3", "paths.raw=/a b/c"]),
        ("preprocess", ["normalization={CT:{_target_:own.N,levels:[{a:1}]}}", "plans='a,b'"]),
        ("predict", ["model=~/x", "input=[a.nii.gz,'b (1).nii.gz']", "output=o", "folds=[0,1]", "overlap=0.25"]),
        ("predict", ["network=batch_norm", "network.memory_format=contiguous", "devices=[0,cpu]"]),
        ("evaluate", ["prediction=2024", "evaluation.scores.tolerance_mm=1e-3", "metrics={m:{_target_:own.m}}"]),
    ],
)
def test_a_job_gets_the_settings_of_its_command(command: str, words: list[str]) -> None:
    settings = _edge.compose(command, *words)
    assert _edge.compose(command, *as_arguments(command, settings)) == settings


def test_a_job_of_a_whole_run_gets_the_settings_of_its_own_command() -> None:
    settings = _edge.compose("run", "dataset=42", "shards=3", "preprocessing.processes=2", "trainer.max_epochs=1")
    job = _edge.compose("preprocess", *as_arguments("preprocess", settings, shards=1, preprocessing__part="1/3"))
    assert (job.dataset.name, job.shards, job.preprocessing.processes) == ("42", 1, 2)
    assert job.preprocessing.part == "1/3"


def test_cases_that_a_job_left_are_told_together() -> None:
    cause = "part=1/4 ended before it was done: exit code 1: line 1\nline 2"
    lost = [f"case 'it's {number}': {cause}" for number in range(7)]
    told = _shards.problems([*lost[:4], "case 'x': no image", *lost[4:]])
    assert told == [
        f"{cause}; left: 7 cases, it's 0, it's 1, it's 2, it's 3, it's 4 and 2 more",
        "case 'x': no image",
    ]
