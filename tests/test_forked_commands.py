"""Commands in forks, as the tests start them, do what new processes do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import forked_commands
import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "loud.yaml").write_text("_target_: own_loud.loud\n_partial_: true\n")
    (tmp_path / "own_loud.py").write_text("import os\nprint(os.getcwd(), os.environ['MINE'], 'HOME' in os.environ)\n")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["predict", "--help"],
        ["trian"],
        ["plan", "dataset=999"],
        ["train", "--cfg", "job", "fold=3", "--config-dir=conf", "loss=loud"],
        ["plan", "dataset.path=/no/such/folder"],
    ],
)
def test_a_fork_says_what_a_new_process_says(folder: Path, words: list[str]) -> None:
    variables = {key: value for key, value in os.environ.items() if key != "HOME"} | {"MINE": "ü"}
    command = [sys.executable, "-m", "segflow", *words]
    new = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    fork = forked_commands.run(folder, *words, environment=variables)
    assert (fork.returncode, fork.stdout, fork.stderr) == (new.returncode, new.stdout, new.stderr)
    assert fork.stdout or fork.stderr


@pytest.mark.skipif(not forked_commands.FORKS, reason="this system has no such forks")
def test_a_fork_can_be_ended_and_leaves_others_alone(tmp_path: Path) -> None:
    out, variables = tmp_path / "out", dict(os.environ)
    words = ("train", "dataset=phantom", "fold=0")
    ended = forked_commands.Fork(tmp_path, words, variables, out, out, session=True)
    other = forked_commands.Fork(tmp_path, ("--version",), variables, tmp_path / "version", out)
    ended.kill()
    assert ended.wait() == -signal.SIGKILL
    assert ended.poll() == -signal.SIGKILL
    assert other.wait(600) == 0
    assert (tmp_path / "version").read_text().startswith("segflow ")


def test_a_relative_folder_is_that_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "where.py"
    script.write_text("import os\nprint(os.getcwd())")
    (tmp_path / "within").mkdir()
    monkeypatch.chdir(tmp_path)
    done = forked_commands.run(Path("within"), environment=dict(os.environ), script=script)
    assert done.stdout.strip() == str(tmp_path / "within")
