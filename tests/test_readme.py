"""Every command of the README runs, on the phantom and cut short."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from segflow.apps import _edge, _settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
FILES = re.findall(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)```", README, flags=re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]
SHORT = [
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=1",
    "trainer.limit_val_batches=1",
    "inference.mirroring=false",
]
SMALL = ["planner.base_features=4", "planner.max_features_3d=16", "planner.max_features_2d=16"]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    target = shlex.split(line)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_segflow_commands_run_in_order(tmp_path: Path) -> None:
    environment = dict(os.environ)
    for name in ("SEGFLOW_RAW", "SEGFLOW_PREPROCESSED", "SEGFLOW_OUTPUTS", "nnUNet_raw", "nnUNet_preprocessed"):
        environment.pop(name, None)
    for name, content in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    commands = [shlex.split(line)[1:] for line in LINES if line.startswith("segflow ")]
    assert {command[0] for command in commands} >= {"plan", "preprocess", "train", "predict", "evaluate"}
    for command in commands:
        extra = {"train": SHORT, "plan": SMALL, "predict": ["inference.mirroring=false"]}.get(command[0], [])
        extra = [e for e in extra if e.split("=")[0] not in {a.split("=")[0] for a in command}]
        run = [sys.executable, "-m", "segflow.apps.main", *command, *extra]
        result = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{command}: {result.stderr}\n{result.stdout}"
    summary = tmp_path / "predictions" / "summary.json"
    assert summary.is_file()
    runs = tmp_path / "outputs" / "Dataset001_Phantom" / "nnUNetPlans" / "3d_fullres"
    assert {run.name for run in runs.iterdir()} >= {"default", "quick", "gentle", "monai", "stripes", "focal"}
    assert all((run / "fold_0" / "finished.json").is_file() for run in runs.glob("optimizer.lr-*"))


def test_no_other_command_is_shown() -> None:
    assert {line.split()[0] for line in LINES} <= {"segflow", "make", "tensorboard"}


@pytest.mark.parametrize(("group", "options"), re.findall(r"^\| `([a-z]+)` \| ([^|]*) \|", README, flags=re.MULTILINE))
def test_the_groups_have_the_options_that_the_readme_names(group: str, options: str) -> None:
    if not (ROOT / "conf" / group).is_dir():
        pytest.fail(f"the README names a group that does not exist: {group}")
    shipped = {file.stem for file in (ROOT / "conf" / group).glob("*.yaml")}
    assert set(re.findall(r"`(\w+)`", options)) <= shipped


TRAINER_CLASSES = re.findall(r"^\| `(nnUNet\w+)`[^|]*\| `([^`]+)` \|$", README, flags=re.MULTILINE)


@cache
def settings_of(*overrides: str) -> dict[str, Any]:
    return _settings.plain(_edge.compose("train", *overrides))


@pytest.mark.parametrize(("name", "settings"), TRAINER_CLASSES)
def test_every_trainer_class_has_settings_that_compose(name: str, settings: str) -> None:
    overrides = settings.split()
    composed = settings_of(*overrides)
    assert composed != settings_of(), f"{name} changes nothing"
    for override in overrides:
        key, value = override.split("=")
        if "." in key:
            found: Any = composed
            for step in key.split("."):
                found = found[step]
            assert found == yaml.safe_load(value)
