"""The wheel brings conf/ along and works outside the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
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


def test_the_wheel_holds_every_file_of_the_package_its_types_and_its_licence(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    package = {str(f.relative_to(ROOT)) for f in (ROOT / "segflow").rglob("*") if f.is_file() and f.suffix != ".pyc"}
    assert "segflow/py.typed" in package
    assert package <= names
    assert "hydra_plugins/segflow.py" in names  # a namespace: a file __init__.py would hide the plugins of others
    assert "hydra_plugins/__init__.py" not in names
    (licence,) = [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
    assert "License-Expression: Apache-2.0" in archive.read(metadata).decode().splitlines()


def test_what_trains_is_an_extra(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    required = re.findall(r"^Requires-Dist: ([\w.-]+)(.*)$", archive.read(metadata).decode(), flags=re.MULTILINE)
    always = {name.lower() for name, condition in required if "extra ==" not in condition}
    train = {name.lower() for name, condition in required if "extra == 'train'" in condition}
    assert {"torch", "numpy", "nibabel", "simpleitk", "msgspec", "pyyaml"} <= always
    assert {"hydra-core", "omegaconf", "pytorch-lightning", "tensorboard", "matplotlib", "jinja2"} <= train
    assert not always & train


def test_the_source_archive_can_be_tested_and_read(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    documents = {"README", "CONTRIBUTING", "CHANGELOG", "SECURITY", "docs/recipe"}
    assert {f"{name}.md" for name in documents} <= names
    assert {"LICENSE", "CITATION.cff", "Makefile", "pyproject.toml", ".pre-commit-config.yaml"} <= names
    for folder in ("segflow", "hydra_plugins", "conf", "tests", "benchmarks"):
        files = {
            str(f.relative_to(ROOT)) for f in (ROOT / folder).rglob("*.*") if f.suffix in (".py", ".yaml", ".json")
        }
        assert files <= names
    assert not any(name.startswith(("outputs/", "data/", ".venv/")) for name in names)


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
