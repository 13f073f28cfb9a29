"""``segflow train -m hydra/launcher=…``: what is done is not started, and no job outlives the sweep."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from apps_commands import PATHS, SHORT, start
from pseudo_terminal import look_at

from segflow.apps import _edge, _launch_table
from segflow.apps._finished import trained_before
from segflow.apps._launch import LaunchedJob, launch
from segflow.apps._training import Trained
from segflow.evaluation.summary import read_summary

RUNS = Path("outputs/Dataset001_Phantom/tinyPlans")
SEEN = """
import os
from pathlib import Path

from pytorch_lightning import Callback


class Seen(Callback):
    def on_fit_start(self, trainer, module):
        Path(f"gpu-{os.environ['CUDA_VISIBLE_DEVICES']}-{os.getpid()}").touch()
"""
PLACE = ["trainer.accelerator=cpu", "save_probabilities=true"]
GIVE_UP_SECONDS = 300


def test_a_sweep_over_two_gpus_trains_what_is_missing_and_tells_what_failed(job: Path) -> None:
    (job / "seen.py").write_text(SEEN)
    sweep = ["train", "-m", "fold=1", *SHORT, *PLACE, "validation=false", "+callbacks.seen._target_=seen.Seen"]
    sweep += ["configuration=2d,3d_fullres", "run_name=one,two", "hydra/launcher=gpus"]
    first = start(job, *sweep, CUDA_VISIBLE_DEVICES="5,7")
    assert first.returncode == 1
    told = [line for line in first.stderr.splitlines() if line.startswith("segflow train configuration=2d")]
    assert len(told) == 2, first.stderr
    assert "'2d' of Dataset001_Phantom is not preprocessed. Run: segflow preprocess" in told[0]
    assert {file.name.split("-")[1] for file in job.glob("gpu-*")} == {"5", "7"}
    written = {name: (job / RUNS / "3d_fullres" / name / "fold_1/finished.json") for name in ("one", "two")}
    times = {name: file.stat().st_mtime_ns for name, file in written.items()}
    second = start(job, *sweep[:-3], "configuration=3d_fullres", *sweep[-2:], CUDA_VISIBLE_DEVICES="5,7")
    assert second.returncode == 0, second.stderr
    assert second.stderr.count("done before") == 2
    assert ": running" not in second.stderr
    assert times == {name: file.stat().st_mtime_ns for name, file in written.items()}


def trained(*more: str) -> Trained | None:
    return trained_before(_edge.compose("train", "fold=0", *SHORT, "save_probabilities=true", *more))


def test_a_training_is_done_once_its_cases_are_validated_with_these_settings(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(job)
    for name in PATHS:
        monkeypatch.delenv(name, raising=False)
    file = RUNS / "3d_fullres/default/fold_0/validation/summary.json"
    done = trained()
    assert done is not None
    assert done.value == pytest.approx(read_summary(file).score, abs=1e-12)
    assert trained("objective=train/loss").value == done.metrics["train/loss"]
    assert trained("trainer.accelerator=cpu", "validation=false", "verbose=true") is not None
    for other in (
        *("inference.overlap=0.4", "inference.resume=false", "optimizer.lr=0.5", "trainer.max_epochs=3"),
        *("training.extend=true", "objective=val/none", "fold=1", "plans=none", "run_name=other"),
    ):
        assert trained(other) is None, other
    for path in (file, file.parent / "phantom_000.nii.gz", file.parent.parent / "finished.json"):
        kept = path.rename(path.with_suffix(".kept"))
        assert trained() is None, path
        kept.rename(path)
    assert trained() is not None
    weights = file.parent.parent / "checkpoints/final.ckpt"
    before = weights.read_bytes()
    weights.write_bytes(before + b" ")
    assert trained() is None
    weights.write_bytes(before)


def test_a_job_tells_where_it_stands_and_its_value_comes_back(
    job: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(job)
    for name in ("READ_EVERY_SECONDS", "LINE_EVERY_SECONDS"):
        monkeypatch.setattr(_launch_table, name, 0.0)
    arguments = ["fold=0", *SHORT, "run_name=told"]
    with caplog.at_level(logging.INFO, "segflow"):
        (end,) = launch([LaunchedJob("one", "train", arguments)])
    assert any(message.startswith("1 running. one: epoch ") for message in caplog.messages)
    scores = read_summary(RUNS / "3d_fullres/told/fold_0/validation/summary.json")
    assert end.error is None
    assert end.value == pytest.approx(scores.score, abs=1e-12)


def test_a_sweep_on_a_terminal_shows_its_jobs_and_whole_lines(job: Path) -> None:
    longer = [*SHORT, "trainer.limit_train_batches=6"]  # for the bar to be drawn within an epoch
    sweep = ["-m", "segflow", "train", "-m", "fold=1,2", *longer, "run_name=seen", "trainer.accelerator=cpu"]
    seen = look_at(sweep, columns=140, rows=40, folder=job)
    assert seen.code == 0, seen.lines
    assert seen.cursor_shown
    for fold in (1, 2):
        assert seen.meanwhile(f"fold={fold}", "running", "epoch 2/2")
    bars = seen.meanwhile("epoch 2/2", "step ")
    assert bars
    assert all(line.startswith("epoch 2/2  ") for line in bars)
    for epoch in (1, 2):
        ends = [line for line in seen.lines if line.startswith(f"epoch {epoch}/2 | train loss ")]
        assert len(ends) == 2, seen.lines
    assert "2 jobs: 2 done" in seen.lines
    assert sum("result 0." in line for line in seen.lines) == 2


@pytest.mark.parametrize(
    ("number", "code", "launcher"), [(signal.SIGTERM, 143, "gpus"), (signal.SIGKILL, -9, "joblib")]
)
def test_no_job_outlives_the_process_that_launched_it(job: Path, number: int, code: int, launcher: str) -> None:
    sweep = ["train", "-m", "fold=0", *SHORT, f"run_name={launcher}", "trainer.max_epochs=100000"]
    environment = {key: value for key, value in os.environ.items() if key not in PATHS}
    command = [sys.executable, "-m", "segflow", *sweep, "trainer.accelerator=cpu", f"hydra/launcher={launcher}"]
    parent = subprocess.Popen(command, cwd=job, env={**environment, "CUDA_VISIBLE_DEVICES": "0"})
    fold = job / RUNS / "3d_fullres" / launcher / "fold_0"
    _wait((fold / "checkpoints/last.ckpt").is_file, parent)
    process = int((fold / ".lock").read_text().split()[1])
    assert _runs(process)
    parent.send_signal(number)
    assert parent.wait(GIVE_UP_SECONDS) == code
    _wait(lambda: not _runs(process))
    assert not (fold / "finished.json").exists()


def _wait(happened: Callable[[], bool], parent: subprocess.Popen[bytes] | None = None) -> None:
    begun = time.monotonic()
    while not happened():
        assert parent is None or parent.poll() is None, "the sweep ended"
        assert time.monotonic() - begun < GIVE_UP_SECONDS
        time.sleep(0.1)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/status")
    return not status.is_file() or "State:\tZ" not in status.read_text()
