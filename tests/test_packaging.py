"""The wheel brings conf/ along and works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_every_configuration_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"segflow/{file.relative_to(ROOT)}" for file in (ROOT / "conf").rglob("*.yaml")}
    assert shipped
    assert shipped <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "conf/")) for name in names)


def test_the_wheel_composes_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    script = f"import sys; sys.path.insert(0, {str(site)!r}); from segflow.apps.main import main; main()"
    command = [sys.executable, "-c", script, "train", "--cfg", "job", "fold=1", "configuration=2d"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "index: 1" in result.stdout
    where = "import segflow; print(segflow.__file__)"
    origin = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert origin.stdout.startswith(str(site))
