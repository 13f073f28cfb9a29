"""The README is short, and what it says can be typed."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import forked_commands
import pytest
from PIL import Image

from segflow.apps._purposes import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()]
PLACES = ("SEGFLOW_", "nnUNet_")
SMALL = ["planner.base_features=4", "planner.max_features_3d=16", "planner.max_features_2d=16"]
SHORT = {
    "plan": SMALL,
    "train": ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"],
    "predict": ["inference.mirroring=false"],
}


def test_it_is_of_one_screen() -> None:
    assert len(README.splitlines()) < 100


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    assert re.search(rf"^{shlex.split(line)[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_segflow_commands_run_in_order(tmp_path: Path) -> None:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(PLACES)}
    commands = [shlex.split(line)[1:] for line in LINES if line.startswith("segflow ")]
    assert [command[0] for command in commands] == ["plan", "preprocess", "train", "predict", "evaluate"]
    for command in commands:
        result = forked_commands.run(tmp_path, *command, *SHORT.get(command[0], ()), environment=variables)
        assert result.returncode == 0, f"{command}: {result.stderr}\n{result.stdout}"
    assert (tmp_path / "predictions" / "summary.json").is_file()


def test_every_command_is_in_the_table() -> None:
    assert set(re.findall(r"`segflow (\w+)", README)) >= set(COMMANDS)


def test_links_lead_to_files_of_the_checkout() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_pictures_are_small_enough_to_be_looked_at() -> None:
    for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README):
        assert (ROOT / name).stat().st_size < 400_000
        with Image.open(ROOT / name) as picture:
            assert picture.width <= 1600
