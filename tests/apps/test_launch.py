"""Jobs as processes of their own: their values, their failures, their ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from apps_commands import start

from segflow.apps import _launch_engines
from segflow.apps._launch import LaunchedJob, failures, launch
from segflow.core.errors import SegflowError
from segflow.execution.machine import processor_count

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


@pytest.mark.parametrize("option", ["gpus", "joblib", "ray", "slurm"])
def test_every_launcher_composes_and_a_users_own_builds_on_it(option: str, folder: Path) -> None:
    own = folder / "own_conf" / "hydra" / "launcher"
    own.mkdir(parents=True)
    (own / "ours.yaml").write_text(f"defaults: [{option}, _self_]\nretries: 2\n")
    words = ["run", "--config-dir=own_conf", "--cfg=hydra", "--package=hydra.launcher", "hydra/launcher=ours"]
    shown = start(folder, *words, "hydra.launcher.folder=here")
    assert shown.returncode == 0, shown.stderr
    values = yaml.safe_load(shown.stdout)
    assert (values["engine"], values["folder"], values["retries"]) == (option, "here", 2)


@pytest.mark.parametrize(("engine", "package"), [("joblib", "launchers"), ("slurm", "launchers"), ("ray", "ray")])
def test_an_engine_that_is_not_installed_names_its_extra(
    engine: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_launch_engines, "find_spec", lambda module: None)
    with pytest.raises(SegflowError, match=rf"needs \w+\. Install it: pip install 'segflow\[{package}\]'"):
        launch([LaunchedJob("a", "config", [])], {"_target_": "hydra_plugins.segflow.Jobs", "engine": engine})


def test_jobs_side_by_side_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    there = processor_count()
    assert _launch_engines.share_of(1) == {"SEGFLOW_PROCESSORS": str(there)}
    assert _launch_engines.share_of(there + 1) == {"SEGFLOW_PROCESSORS": "1"}
    monkeypatch.setenv("SEGFLOW_PROCESSORS", "1")
    assert processor_count() == 1
    monkeypatch.setenv("SEGFLOW_PROCESSORS", str(there + 7))
    assert processor_count() == there


def test_failed_jobs_are_tried_again_when_asked(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    jobs = [LaunchedJob("good", "config", ["find=epochs"]), LaunchedJob("bad", "config", [])]
    with caplog.at_level("INFO"):
        ends = launch(jobs, {"retries": 1, "folder": str(folder / "logs")})
    assert [end.error is None for end in ends] == [True, False]
    # A job that ends before anybody looked was never seen running, and its cause stands beside the word.
    told = [message.partition(" after")[0] for message in caplog.messages if ": running" not in message]
    assert [state for state in told if state.startswith("good")] == ["good: done"]
    bad = [state.removeprefix("bad: ") for state in told if state.startswith("bad: ")]
    assert len(bad) == 3
    assert bad[0].startswith("failed")
    assert bad[1] == "waiting: once more"
    assert bad[2].startswith("failed")
