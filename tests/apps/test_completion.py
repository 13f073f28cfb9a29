"""Tab completes command lines: asked of the command itself, and of real shells in a pseudo-terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from segflow.apps import _completion
from segflow.core.errors import SegflowError

PATIENCE_SECONDS = 120.0
"""How long a shell may take on a busy machine before a test gives up."""


def completed(line: str, shell: str = "zsh") -> list[str]:
    """Candidates at the end of a line, whole words with a space behind them."""
    return _completion.answer([f"query={shell}"], {"COMP_LINE": line, "COMP_POINT": str(len(line))}).splitlines()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a planned dataset, a trained run and a folder of settings."""
    for name in ("Dataset007_Two", "Dataset042_Liver"):
        (tmp_path / "data" / "raw" / name).mkdir(parents=True)
        (tmp_path / "data" / "raw" / name / "dataset.json").write_text("{}")
    prepared = tmp_path / "data" / "preprocessed" / "Dataset042_Liver"
    prepared.mkdir(parents=True)
    (prepared / "nnUNetPlans.json").write_text(json.dumps({"configurations": {"2d": {}, "3d_lowres": {}}}))
    (prepared / "splits_final.json").write_text(json.dumps([{}, {}, {}]))
    (tmp_path / "outputs/Dataset042_Liver/nnUNetPlans/2d/default/fold_0").mkdir(parents=True)
    (tmp_path / "my images").mkdir()
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    (tmp_path / "mine" / "loss" / "weighed.yaml").write_text("# Weighed.\n_target_: my.weighed\ngamma: 2.0\n")
    for name in ("SEGFLOW_RAW", "SEGFLOW_PREPROCESSED", "SEGFLOW_OUTPUTS", "nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SEGFLOW_CONF", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("segflow tr", ["train "]),
        ("segflow help pl", ["plan "]),
        ("segflow train fo", ["fold.", "fold="]),
        ("segflow train fold=", [f"fold={fold} " for fold in (0, 1, 2, 3, 4, "all")]),
        ("segflow train dataset=42 fold=", [f"fold={fold} " for fold in (0, 1, 2, "all")]),
        ("segflow train dataset=42 -m fold=0,", ["fold=0,1 ", "fold=0,2 ", "fold=0,all "]),
        ("segflow train dataset=Dataset042_Liver configuration=", ["configuration=2d ", "configuration=3d_lowres "]),
        ("segflow train dataset.path=/data/Dataset042_Liver configuration=3", ["configuration=3d_lowres "]),
        ("segflow preprocess dataset=42 configurations=[2d,3", ["configurations=[2d,3d_lowres"]),
        ("segflow train dataset=D", ["dataset=Dataset007_Two ", "dataset=Dataset042_Liver "]),
        ("segflow train dataset=42 plans=", ["plans=nnUNetPlans "]),
        ("segflow train dataset=42 run_name=", ["run_name=default "]),
        ("segflow train trainer.deter", ["trainer.deterministic="]),
        ("segflow train validation=", ["validation=false ", "validation=true "]),
        ("segflow train optimizer=adamw optimizer.am", ["optimizer.amsgrad="]),
        ("segflow train optimizer.am", []),
        ("segflow train loss=wei", []),
        ("segflow train --config-dir mine loss=wei", ["loss=weighed "]),
        ("segflow train --config-dir mine loss=weighed loss.", ["loss.gamma="]),
        ("segflow train --config-dir mi", ["mine/"]),
        ("segflow train --cfg ", ["all ", "hydra ", "job "]),
        ("segflow train --mu", ["--multirun "]),
        ("segflow predict mirr", ["mirroring="]),
        ("segflow predict model=", ["model=outputs/Dataset042_Liver/nnUNetPlans/2d/default "]),
        ("segflow report run=out", ["run=outputs/"]),
        ("segflow predict input=my", ["input=my images/"]),
        ("segflow nonsense fold", []),
        ("segflow train no=such=", []),
    ],
)
def test_candidates(line: str, expected: list[str], place: Path) -> None:
    assert completed(line) == expected


def test_files_that_cannot_be_read_offer_nothing_and_are_no_error(place: Path) -> None:
    prepared = place / "data" / "preprocessed" / "Dataset042_Liver"
    (prepared / "nnUNetPlans.json").write_text("{")
    (prepared / "splits_final.json").write_bytes(b"\xff\xfe")
    assert "configuration=3d_fullres " in completed("segflow train dataset=42 configuration=")
    assert "fold=4 " in completed("segflow train dataset=42 fold=")
    (prepared / "nnUNetPlans.json").write_text('{"configurations": 3}')
    assert completed("segflow train dataset=42 configuration=2") in ([], ["configuration=2d "])


def test_bash_gets_what_stands_behind_its_last_break(place: Path) -> None:
    assert completed("segflow train fold=a", "bash") == ["all "]
    assert completed("segflow predict input=my", "bash") == ["my\\ images/"]
    assert completed("segflow predict input='my", "bash") == ["my images/"]
    assert completed("segflow predict input=my\\ i", "bash") == ["my\\ images/"]


def test_fish_gets_meanings_too(place: Path) -> None:
    assert completed("segflow eva", "fish") == ["evaluate\tlabel maps and references → scores"]


@pytest.mark.parametrize("asked", [[], ["install=csh"], ["query"], ["install=bash", "more"]])
def test_what_cannot_be_asked_is_told(asked: list[str]) -> None:
    with pytest.raises(SegflowError, match="bash, zsh or fish"):
        _completion.answer(asked)


def test_an_answer_waits_for_nothing_heavy(place: Path) -> None:
    script = (
        "import sys; from segflow.apps.main import main; main(['-sc', 'query=bash']);"
        "print([name for name in ('torch', 'hydra', 'scipy', 'SimpleITK') if name in sys.modules])"
    )
    line = "segflow train dataset=42 configuration=2"
    environment = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "2d \n[]\n"


# ------------------------------------------------------------------------------------------------------ real shells

START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
SET_UP = {
    "bash": 'eval "$(segflow -sc install=bash)"',
    "zsh": 'bindkey -e; eval "$(segflow -sc install=zsh)"',
    "fish": "segflow -sc install=fish | source",
}


class Terminal:
    """A shell in a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.shown = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.descriptor, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until the screen shows a text."""
        end = time.monotonic() + PATIENCE_SECONDS
        while text not in self.shown:
            if time.monotonic() > end:
                pytest.fail(f"the terminal never showed {text!r}; it showed {self.shown!r}")
            if select.select([self.descriptor], [], [], 0.2)[0]:
                self.shown += os.read(self.descriptor, 65536).decode(errors="replace")
                if "\x1b[0c" in self.shown or "\x1b[c" in self.shown:  # fish asks which terminal this is
                    self.shown = self.shown.replace("\x1b[0c", "").replace("\x1b[c", "")
                    self.type("\x1b[?6c")


@contextmanager
def terminal(shell: str, folder: Path) -> Iterator[Terminal]:
    """A shell in which ``segflow`` is a command."""
    commands = folder / "bin"
    commands.mkdir()
    script = commands / "segflow"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m segflow "$@"\n')
    script.chmod(0o755)
    child, descriptor = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(PATH=f"{commands}{os.pathsep}{os.environ['PATH']}", TERM="xterm", HOME=str(folder), PS1="$ ")
        os.execvp(START[shell][0], START[shell])
    try:
        yield Terminal(descriptor)
    finally:
        os.close(descriptor)
        with suppress(ProcessLookupError):
            os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.parametrize("shell", START)
def test_tab_completes_in_a_terminal(shell: str, place: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    with terminal(shell, place) as seen:
        seen.type(f"{SET_UP[shell]}; echo set''up\r")
        seen.wait_for("setup")
        for typed, expected in (
            ("segflow trai\tconfigura\t", "segflow train configuration"),
            ("segflow train dataset=Dataset042\t", "segflow train dataset=Dataset042_Liver"),
            ("segflow train trainer.determ\tf\tfold=all", "segflow train trainer.deterministic=false fold=all"),
            ("segflow report run=outp\tDat\t", "segflow report run=outputs/Dataset042_Liver/"),
        ):
            seen.type(f"{typed}\x05>'\x01echo 'is<\r")  # the line becomes a text that the shell shows
            seen.wait_for(f"is<{expected}")


@pytest.mark.parametrize("shell", START)
def test_the_shell_reads_its_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for asked in ("install", "uninstall"):
        file = tmp_path / f"{asked}.{shell}"
        file.write_text(_completion.answer([f"{asked}={shell}"]))
        subprocess.run([shell, "-n", str(file)], check=True, capture_output=True)
