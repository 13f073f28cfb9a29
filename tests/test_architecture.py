"""Packages import each other in one direction."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "segflow"


def test_imports_go_one_way_through_the_rooms() -> None:
    tool = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([str(tool)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ["utils", "helpers", "misc", "common"])
def test_no_drawer_for_odds_and_ends(name: str) -> None:
    assert not list(PACKAGE.rglob(f"{name}.py"))
    assert not list(PACKAGE.rglob(f"{name}/"))


def test_only_files_in_apps_write_to_stdout() -> None:
    offenders = [
        str(file.relative_to(ROOT))
        for file in PACKAGE.rglob("*.py")
        if "apps" not in file.parts and re.search(r"(?<![\w.`])print\(", file.read_text(encoding="utf-8"))
    ]
    assert not offenders


def test_nothing_loads_code_from_a_file() -> None:
    """The one exception hands messages between a parent and its own workers, and never reads a file."""
    unsafe = re.compile(
        r"load[^\n]*weights_only\s*=\s*False|pickle\.loads?\(|allow_pickle\s*=\s*True|yaml\.load\(|(?<![.\w])eval\("
    )
    allowed = {PACKAGE / "execution" / "worker.py"}
    offenders = [
        str(file.relative_to(ROOT))
        for file in PACKAGE.rglob("*.py")
        if file not in allowed and unsafe.search(file.read_text(encoding="utf-8"))
    ]
    assert not offenders


def test_help_needs_neither_torch_nor_hydra() -> None:
    script = (
        "import sys; from segflow.apps.main import main; main(['--help']);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'hydra', 'pytorch_lightning', 'SimpleITK')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


HYDRA = {
    *("_hydra_job.py", "_composition.py", "_sweep.py", "_launch_sweep.py", "_hydra_messages.py"),
    "_invocation.py",
}
"""The files that know Hydra. Untyped nodes are known to the first five, which compose, launch and word errors."""


def test_no_untyped_node_reaches_a_command() -> None:
    knows = {
        name: {
            file.name
            for file in (PACKAGE / "apps").glob("*.py")
            if re.search(rf"(from|import) {name}\b", file.read_text())
        }
        for name in ("hydra", "omegaconf")
    }
    assert knows["hydra"] <= HYDRA
    assert knows["omegaconf"] <= HYDRA - {"_invocation.py"}


def test_the_record_of_every_command_waits_for_no_library() -> None:
    script = (
        "import sys; from segflow.apps._commands import record_of; from segflow.apps.main import COMMANDS;"
        "[record_of(command) for command in COMMANDS];"
        "slow = ('torch', 'pytorch_lightning', 'scipy', 'SimpleITK', 'hydra');"
        "sys.exit(' '.join(name for name in slow if name in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert not result.stderr.strip(), result.stderr


def test_no_file_of_two_packages_has_the_same_name() -> None:
    """Apart from files of one family: readers of a format, and the checks of its headers."""
    files = [file for file in PACKAGE.rglob("*.py") if "image_formats" not in file.parts and file.name != "__init__.py"]
    names = [file.name for file in files if "apps" not in file.parts]
    assert sorted({name for name in names if names.count(name) > 1}) == []
