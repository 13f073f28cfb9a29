"""Steps of the continuous integration, one by one: ``python scripts/ci.py STEP …``, on Linux, macOS and Windows.

``.github/workflows/ci.yml`` runs nothing else, so that each step can be tried on any machine. ``install`` changes the
environment whose Python runs it: versions are those of ``requirements.lock``, with torch's CPU build on Linux.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"

PORTABLE = (
    *("tests/core", "tests/loss", "tests/sampling", "tests/postprocessing", "tests/evaluation/test_overlap.py"),
    *("tests/evaluation/test_surface.py", "tests/network/test_network_build.py", "tests/test_other_systems.py"),
)
"""Tests for systems other than Linux. Many others use what only Linux has, such as /proc."""


def run(*words: str, folder: Path = ROOT) -> None:
    """Run a command, and end with its exit code if it fails."""
    print("+", *words, flush=True)
    code = subprocess.run(words, cwd=folder, check=False).returncode
    if code:
        raise SystemExit(code)


def python(*words: str, folder: Path = ROOT) -> None:
    run(sys.executable, *words, folder=folder)


def install() -> None:
    """Install the locked versions, and segflow from this checkout."""
    into = ("-m", "uv", "pip", "install", "--python", sys.executable)
    python("-m", "pip", "install", "--quiet", "uv")
    python(*into, TORCH, *(("--index-url", CPU_BUILDS) if sys.platform == "linux" else ()))
    python(*into, "--requirements", "requirements.lock")
    python(*into, "--no-deps", "--editable", ".")


def lint() -> None:
    """Style, types, direction of imports."""
    python("-m", "ruff", "check", ".")
    python("-m", "ruff", "format", "--check", ".")
    python("-m", "mypy")
    run("lint-imports")


def test() -> None:
    """All tests on Linux; elsewhere those of `PORTABLE`."""
    python("-m", "pytest", "-n", "2", "--dist", "loadfile", *(() if sys.platform == "linux" else PORTABLE))


def demo() -> None:
    """The whole job on the phantom, in a folder that is removed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        python("-m", "segflow", "demo", folder=Path(folder))


def docs() -> None:
    """The site with its links, and the commands of its pages."""
    run("make", "docs")
    python("-m", "pytest", "-n", "2", "tests/docs")


def docker() -> None:
    """The image for CPUs, and the demo in it."""
    run("docker", "build", "--target", "cpu", "--tag", "segflow:cpu", ".")
    run("docker", "run", "--rm", "--shm-size=1g", "segflow:cpu", "demo")


STEPS: dict[str, Callable[[], None]] = {step.__name__: step for step in (install, lint, test, demo, docs, docker)}


def main(words: list[str]) -> None:
    unknown = [word for word in words if word not in STEPS]
    if unknown or not words:
        raise SystemExit(f"python scripts/ci.py STEP …; the steps are {', '.join(STEPS)}")
    for word in words:
        STEPS[word]()


if __name__ == "__main__":
    main(sys.argv[1:])
