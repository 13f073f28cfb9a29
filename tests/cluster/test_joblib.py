"""A sweep by joblib, two jobs at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep import HELD, JOBS, SWEEP, check_runs, epochs, prepare, segflow

pytest.importorskip("joblib", reason="joblib is not installed: pip install 'segflow[launchers]'")


def test_a_sweep_leaves_complete_runs_and_its_second_start_trains_nothing(tmp_path: Path) -> None:
    prepare(tmp_path)
    for _ in range(2):
        result = segflow(tmp_path, "train", *SWEEP, HELD, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
        assert result.returncode == 0, result.stdout
        check_runs(tmp_path, *JOBS)
        assert [epochs(tmp_path, *which) for which in JOBS] == [[0, 1]] * len(JOBS)
