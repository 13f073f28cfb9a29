"""The phantom, trained for a moment."""

from __future__ import annotations

from pathlib import Path

import pytest
from apps_commands import SHORT, TINY, start


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the phantom was planned, preprocessed and trained for a moment."""
    folder = tmp_path_factory.mktemp("job")
    for arguments in (
        ["plan", *TINY],
        ["preprocess", "plans=tinyPlans", "configurations=3d_fullres"],
        ["train", "fold=0", *SHORT, "save_probabilities=true"],
    ):
        result = start(folder, *arguments)
        assert result.returncode == 0, f"{arguments}: {result.stderr}"
    return folder
