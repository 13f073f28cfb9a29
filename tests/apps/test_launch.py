"""Jobs as processes of their own: their values, their failures, their ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from segflow.apps._launch import LaunchedJob, failures, launch
from segflow.core.errors import SegflowError

ENGINES = [{}, {"engine": "joblib", "n_jobs": 2}, {"engine": "gpus"}]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return tmp_path


@pytest.mark.parametrize("launcher", ENGINES, ids=["here", "joblib", "gpus"])
def test_a_job_that_fails_is_told_and_ends_no_other(launcher: dict[str, object], folder: Path) -> None:
    jobs = [LaunchedJob(name, "config", [f"find={name}"]) for name in ("epochs", "patch", "learning")]
    jobs.insert(1, LaunchedJob("wrong", "config", ["fnd=epochs"]))
    target = {"_target_": "hydra_plugins.segflow.Jobs"} if launcher else {}
    ends = launch(jobs, {**target, **launcher, "folder": str(folder / "logs")})
    assert [end.name for end in ends] == [job.name for job in jobs]
    assert [end.error is None for end in ends] == [True, False, True, True], ends
    assert "there is no setting 'fnd'. Did you mean 'find'?" in failures(ends)[0]
    assert list((folder / "logs").glob("*/1-wrong.log"))  # the logs stay for the one that failed


def test_logs_of_jobs_that_are_done_are_removed(folder: Path) -> None:
    launch([LaunchedJob("a", "config", ["find=epochs"])], {"folder": str(folder / "logs")})
    assert not (folder / "logs").exists()


def test_a_machine_without_gpus_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SegflowError, match="finds too few GPUs on this machine; found 0"):
        launch([LaunchedJob("a", "config", [])], {"_target_": "hydra_plugins.segflow.Jobs", "engine": "gpus"})


def test_a_launcher_of_hydras_own_takes_no_command_lines() -> None:
    with pytest.raises(SegflowError, match="runs the jobs of a sweep only"):
        launch([LaunchedJob("a", "config", [])], {"_target_": "hydra_plugins.other.Launcher"})
