"""The search that ships as an example: it is killed, goes on, ends bad trials early, and trains nothing twice."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import optuna
import pytest
from apps_commands import PATHS, SHORT, TINY, start
from optuna.trial import TrialState, create_trial

from segflow.core.errors import SegflowError

FILE = Path(__file__).resolve().parents[2] / "examples" / "search.py"
RUNS = Path("outputs/Dataset001_Phantom/tinyPlans/3d_fullres")
SETTINGS = ["--folds=0,1", "--heartbeat=1", "dataset=phantom", *SHORT]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the phantom is planned and preprocessed."""
    folder = tmp_path_factory.mktemp("search")
    for arguments in (["plan", *TINY], ["preprocess", "plans=tinyPlans", "configurations=3d_fullres"]):
        result = start(folder, *arguments)
        assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def search(planned: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, in that folder, without the paths that the tester's own environment sets."""
    for name in PATHS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(planned)
    spec = importlib.util.spec_from_file_location("example_search", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_a_search_that_was_killed_goes_on_and_trains_nothing_twice(search: ModuleType, planned: Path) -> None:
    longer = [*SETTINGS, "--name=killed", "--folds=0", "trainer.max_epochs=3"]
    environment = {key: value for key, value in os.environ.items() if key not in PATHS}
    command = [sys.executable, str(FILE), "--trials=2", *longer]
    first = subprocess.Popen(command, cwd=planned, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    running = RUNS / "killed-1" / "fold_0"
    wait_for(lambda: (running / "checkpoints" / "last.ckpt").is_file() or first.poll() is not None)
    first.send_signal(signal.SIGKILL)
    _, told = first.communicate()
    assert first.returncode == -signal.SIGKILL, told
    assert not (running / "finished.json").exists()
    done = RUNS / "killed-0" / "fold_0" / "finished.json"
    before = done.stat().st_mtime_ns
    time.sleep(4)  # three heartbeats, after which the killed trial counts as dead
    study = search.main(["--trials=2", *longer])
    states = [trial.state for trial in study.trials]
    assert states[:2] == [TrialState.COMPLETE, TrialState.FAIL]
    assert states[2] in (TrialState.COMPLETE, TrialState.PRUNED)
    assert len(states) == 3
    assert study.trials[2].params == study.trials[1].params
    assert study.trials[0].params == search.FIRST
    assert "going on from" in (running / "train.log").read_text()
    assert (running / "finished.json").is_file()
    assert done.stat().st_mtime_ns == before
    assert {folder.name for folder in RUNS.glob("killed-*")} == {"killed-0", "killed-1"}
    assert search.main(["--trials=2", *longer]).trials == study.trials  # enough are done


def test_the_value_of_a_trial_is_the_mean_over_the_folds(search: ModuleType) -> None:
    study = search.main(["--trials=1", "--name=mean", *SETTINGS])
    (trial,) = study.trials
    ends = [trial.intermediate_values[step] for step in (1, 3)]
    assert sorted(trial.intermediate_values) == [0, 1, 2, 3]  # two folds of two epochs
    assert trial.value == ends[1]
    assert ends[0] != ends[1]


def test_a_trial_below_the_median_ends_after_an_epoch(search: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    perfect = create_trial(value=1.0, intermediate_values=dict.fromkeys(range(4), 1.0))
    study = optuna.create_study(study_name="bad", storage="sqlite:///search.db", direction="maximize")
    study.add_trial(perfect)
    study = search.main(["--trials=2", "--name=bad", "--startup=1", "--warmup=0", *SETTINGS])
    assert study.trials[1].state == TrialState.PRUNED
    assert sorted(study.trials[1].intermediate_values) == [0]
    folder = RUNS / "bad-1" / "fold_0"
    assert (folder / "pruned.json").is_file()
    assert not (folder / "finished.json").exists()
    assert not (RUNS / "bad-1" / "fold_1").exists()
    assert "Trial 0 is the best of 2" in capsys.readouterr().out


def test_what_would_fail_every_trial_ends_the_search(search: ModuleType) -> None:
    with pytest.raises(SegflowError, match="segflow plan"):
        search.main(["--name=wrong", "dataset=phantom", "plans=none_of_them"])
    with pytest.raises(SegflowError, match="cannot be used; found OperationalError"):
        search.main(["--storage=sqlite:///no/such/folder/x.db", "dataset=phantom"])
