"""What only needs files, and every question about settings, is answered before torch and Lightning are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
from apps_commands import PATHS

from segflow.apps._purposes import COMMANDS

SCRIPT = """
import sys
from segflow.apps.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = [name for name in ("torch", "pytorch_lightning", "lightning") if name in sys.modules]
    sys.stderr.write(f"\\nloaded: {heavy}\\n")
"""


def answered(folder: Path, *arguments: str) -> tuple[str, str]:
    """What a command says on both streams, and which heavy packages it loaded for that."""
    clean = {key: value for key, value in os.environ.items() if key not in PATHS}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    result = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    said, _, loaded = result.stderr.rpartition("loaded: ")
    return result.stdout + said, loaded.strip()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["plan", "dataset=999"], "there is no dataset"),
        (["doctor", "dataset=Dataset999_X"], "Dataset999_X"),
        (["preprocess", "dataset=999"], "there is no dataset"),
        (["train", "dataset=999"], "there is no dataset"),
        (["train", "dataset=phantom"], "segflow plan"),
        (["train"], "which dataset?"),
        (["select", "dataset=999"], "there is no dataset"),
        (["run", "dataset=999"], "there is no dataset"),
        (["predict", "input=.", "output=out"], "model= is missing"),
        (["predict", "model=outputs/none", "input=.", "output=out"], "Train first"),
        (["evaluate", "prediction=."], "reference= is missing"),
        (["ensemble", "output=out"], "members= and output= are needed"),
        (["postprocess"], "prediction= is missing"),
        (["postprocess", "run=outputs/none"], "Train first"),
        (["report"], "segflow report run="),
        (["report", "run=outputs/none"], "Train first"),
        (["convert"], "segflow convert source="),
        (["bundle"], "segflow bundle action=export"),
        (["bundle", "model=outputs/none", "output=a.segflow"], "Train first"),
        (["train", "optimizer=nothing"], "there is no 'nothing'"),
        (["train", "trainer.max_epochs=many"], "wrong type"),
        (["config", "find=rate"], "optimizer.lr"),
    ],
)
def test_no_mistake_waits_for_torch(arguments: list[str], expected: str, tmp_path: Path) -> None:
    said, loaded = answered(tmp_path, *arguments)
    assert expected in said
    assert loaded == "[]"


def test_images_that_are_not_there_need_no_torch(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, "3d_fullres")
    said, loaded = answered(tmp_path, "predict", f"model={run}", "input=nowhere", "output=out")
    assert "there is no nowhere; expected a folder of images" in said
    assert loaded == "[]"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_help_waits_for_torch(command: str, tmp_path: Path) -> None:
    said, loaded = answered(tmp_path, command, "--help")
    assert said.startswith(f"segflow {command}: ")
    assert loaded == "[]"


def test_a_dataset_without_plans_is_told_before_torch(tmp_path: Path) -> None:
    prepared = tmp_path / "data" / "preprocessed" / "Dataset009_X"
    prepared.mkdir(parents=True)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "numTraining": 1}
    (prepared / "dataset.json").write_text(json.dumps({**description, "file_ending": ".nii.gz"}))
    said, loaded = answered(tmp_path, "train", "dataset=Dataset009_X", "plans=none")
    assert "segflow plan dataset=Dataset009_X" in said
    assert loaded == "[]"
