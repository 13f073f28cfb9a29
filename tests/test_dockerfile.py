"""The Dockerfile's steps, as far as they can be taken without Docker."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KNOWN = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD"}


def steps_of_stages() -> dict[str, list[tuple[str, str]]]:
    """Stage → its instructions with their arguments, those of the stage that it continues first."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages: dict[str, list[tuple[str, str]]] = {}
    steps: list[tuple[str, str]] = []
    for line in filter(None, re.sub(r"\\\n\s*", "", text).splitlines()):
        instruction, _, rest = line.partition(" ")
        assert instruction in KNOWN, line
        if instruction == "FROM":
            image, name = rest.split(" AS ")
            assert image in stages or re.fullmatch(r"python:3\.\d+-slim-\w+", image), "not pinned by its tag"
            steps = stages[name] = [*stages.get(image, [])]
        steps.append((instruction, rest))
    return stages


STAGES = steps_of_stages()


def arguments(stage: str, instruction: str) -> list[str]:
    return [rest for name, rest in STAGES[stage] if name == instruction]


def command(run: str) -> str:
    """The command of a RUN, without its mounts."""
    return re.sub(r"--mount=\S+ ", "", run)


def test_the_images_are_there() -> None:
    assert list(STAGES) == ["wheel", "base", "cpu", "cuda"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_command_is_one_of_a_shell_and_every_stage_that_it_uses_exists(stage: str) -> None:
    for run in arguments(stage, "RUN"):
        subprocess.run(["sh", "-n", "-c", command(run)], check=True)
        assert set(re.findall(r"from=(\w+)", run)) <= set(STAGES)
        assert command(run).startswith(("apt-get ", "pip ", "useradd "))


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_an_image_runs_segflow_without_the_rights_of_root(image: str) -> None:
    assert arguments(image, "USER") == ["segflow"]
    assert STAGES[image][-1] == ("USER", "segflow")  # what installs stands before
    assert json.loads(arguments(image, "ENTRYPOINT")[-1]) == ["segflow"]
    assert json.loads(arguments(image, "CMD")[-1]) == ["--help"]
    assert "segflow" in PROJECT["scripts"]


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_an_image_installs_the_projects_torch_and_extras_that_exist(image: str) -> None:
    installs = [command(run) for run in arguments(image, "RUN") if command(run).startswith("pip ")]
    (torch,) = [text for text in PROJECT["dependencies"] if text.startswith("torch")]
    assert f'"{torch}"' in installs[0]
    assert ("whl/cpu" in installs[0]) == (image == "cpu")
    extras = re.search(r"\[([\w,]+)\]", installs[1])
    assert extras
    assert {"train"} < set(extras.group(1).split(",")) <= set(PROJECT["optional-dependencies"])


def test_what_is_copied_is_in_the_checkout_and_sent_to_docker() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    sent = {line[1:] for line in lines if line.startswith("!")}
    sources = [source for copied in arguments("wheel", "COPY") for source in copied.split()[:-1]]
    assert sorted(sent) == sorted(sources)
    assert all((ROOT / source).exists() for source in sources)


def test_the_copied_files_make_a_wheel_that_runs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for copied in arguments("wheel", "COPY"):
        for name in copied.split()[:-1]:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
    (build,) = map(command, arguments("wheel", "RUN"))
    pip = [sys.executable, "-m", *build.replace("/wheel .", f"{tmp_path / 'wheel'} .").split(), "--no-build-isolation"]
    subprocess.run([*pip, "--quiet"], cwd=source, check=True)
    (wheel,) = (tmp_path / "wheel").glob("segflow-*.whl")
    script = f"import sys; sys.path.insert(0, {str(wheel)!r}); from segflow.apps.main import main; main(['--version'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"segflow {PROJECT['version']}\n"
