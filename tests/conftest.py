"""Fixtures that several packages share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Tests run side by side. Threads of several processes that wait for each other on the same cores cost far more than
# they bring; commands that tests start inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines for tests often have Python keep no compiled code. Each command that a test starts would then compile all
# modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real datasets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("SEGFLOW_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "Dataset004_Hippocampus").is_dir():
        pytest.skip(f"no real datasets in {folder}; set SEGFLOW_TEST_DATA to the folder that holds them")
    return folder
