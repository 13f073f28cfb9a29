"""Workspaces for the commands of pages: a folder with the small phantom, bare or trained for a moment."""

from __future__ import annotations

import shutil
from pathlib import Path

import forked_commands
import pytest
from pages import CONF, PHANTOM, clean_environment

from segflow.storage.phantom import make_phantom

MADE_BY = (
    ("plan", "dataset=phantom"),
    ("preprocess", "dataset=phantom"),
    ("train", "dataset=phantom", "fold=0"),
)


@pytest.fixture(scope="session")
def raw_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "base"
    make_phantom(folder / "data" / "raw" / PHANTOM, cases=6, held_out=2)
    return folder


@pytest.fixture(scope="session")
def trained_base(raw_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "base"
    shutil.copytree(raw_base, folder)
    environment = {**clean_environment(), "SEGFLOW_CONF": str(CONF)}
    for words in MADE_BY:
        result = forked_commands.run(folder, *words, environment=environment, seconds=300)
        assert result.returncode == 0, f"{words}: {result.stderr}"
    return folder


@pytest.fixture
def raw_workspace(raw_base: Path, tmp_path: Path) -> Path:
    """A folder that holds the raw phantom and nothing else."""
    return shutil.copytree(raw_base, tmp_path / "work")


@pytest.fixture
def workspace(trained_base: Path, tmp_path: Path) -> Path:
    """A folder with the phantom planned, preprocessed, and trained: fold 0 of 3d_fullres, run ``default``."""
    return shutil.copytree(trained_base, tmp_path / "work")
