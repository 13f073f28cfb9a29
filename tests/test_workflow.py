"""The workflow runs steps of scripts/ci.py only, and what these need exists."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


@pytest.fixture(scope="module")
def ci() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci", ROOT / "scripts" / "ci.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_steps_are_of_the_script(ci: ModuleType) -> None:
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    runs = [step["run"] for step in steps if "run" in step]
    words = [re.fullmatch(r"python3? scripts/ci\.py (\w+)", run) for run in runs]
    assert all(words), runs
    assert {word.group(1) for word in words if word} == set(ci.STEPS)
    assert all(step["uses"].startswith("actions/") for step in steps if "uses" in step)
    assert all("timeout-minutes" in job for job in WORKFLOW["jobs"].values())


def test_every_python_that_the_project_allows_is_tested_on_three_systems() -> None:
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["system"]} == {"ubuntu", "macos", "windows"}
    first, end = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()  # type: ignore[union-attr]
    assert matrix["python"] == [f"3.{minor}" for minor in range(int(first), int(end))]


def test_the_tests_for_other_systems_exist(ci: ModuleType) -> None:
    assert [path for path in ci.PORTABLE if not (ROOT / path).exists()] == []


def test_a_step_runs_its_commands_and_ends_with_the_first_that_fails(
    ci: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def run(words: tuple[str, ...], **_: Any) -> subprocess.CompletedProcess[str]:
        tried.append(" ".join(words).replace(f"{sys.executable} -m ", ""))
        return subprocess.CompletedProcess(words, 3 if words[-1] == "mypy" else 0)

    monkeypatch.setattr(ci.subprocess, "run", run)
    with pytest.raises(SystemExit) as ended:
        ci.main(["lint"])
    assert ended.value.code == 3
    assert tried == ["ruff check .", "ruff format --check .", "mypy"]
    tried.clear()
    ci.main(["install"])
    torch = next(line for line in tried if " torch==" in line)
    assert ("whl/cpu" in torch) == (sys.platform == "linux")
    assert tried[-1].endswith("--no-deps --editable .")
    with pytest.raises(SystemExit, match="the steps are install, lint"):
        ci.main(["tset"])


def test_locked_versions_fit_what_the_project_asks_for(ci: ModuleType) -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text  # an index is the machine's choice
    pinned = re.findall(r"^([\w.-]+)==([\w.+]+)", text, re.MULTILINE)
    locked = {canonicalize_name(name): version for name, version in pinned}
    locked["torch"] = ci.TORCH.partition("==")[2]
    groups = PYPROJECT["dependency-groups"]
    direct = [text for group in groups.values() for text in group if isinstance(text, str)]
    for needed in map(Requirement, (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["train"], *direct)):
        assert needed.specifier.contains(locked[canonicalize_name(needed.name)]), needed
