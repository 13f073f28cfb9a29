"""Sweeps on a real SLURM: jobs that meet their time limit, are preempted or cancelled; the second start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import CannotStartError, SlurmCluster, slurm_cluster
from sweep import (
    HELD,
    JOBS,
    LEAST,
    PATIENCE,
    RUNS,
    SHORT,
    SWEEP,
    check_runs,
    epochs,
    hold,
    in_second_epoch,
    prepare,
    segflow,
    started,
    wait_until,
)

SLURM = [
    "hydra/launcher=slurm",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=1",
    "hydra.launcher.timeout_min=10",
    "hydra.launcher.signal_delay_s=60",
]
LIMITED, PREEMPTED, CANCELLED, QUIET = JOBS


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # pytest's own folders have too long paths for a socket
    try:
        with slurm_cluster(folder) as cluster:
            yield cluster
    except CannotStartError as error:
        pytest.skip(str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def job(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the phantom is prepared."""
    return prepare(tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="module")
def troubled(cluster: SlurmCluster, job: Path) -> str:
    """What is said by a sweep of which a job meets its time limit, one is preempted, and one is cancelled."""
    holds = {which: hold(job, *which) for which in JOBS}
    with started(job, "train", *SWEEP, HELD, *SLURM, **cluster.environment) as sweep:
        wait_until(
            lambda: all(in_second_epoch(job, *which) for which in JOBS), "four jobs in their second epoch", sweep
        )
        number = dict(zip(JOBS, sorted(cluster.jobs()), strict=True))
        holds[QUIET].unlink()
        cluster.ask("scancel", number[CANCELLED])
        cluster.ask("scontrol", "requeue", number[PREEMPTED])
        elapsed = cluster.minutes_of(number[LIMITED])
        cluster.ask("scontrol", "update", f"JobId={number[LIMITED]}", f"TimeLimit={elapsed + 1}")
        for which in (PREEMPTED, LIMITED):
            wait_until(lambda which=which: cluster.jobs()[number[which]] == "PENDING", f"{which} queued again", sweep)
            holds[which].unlink()
            # Else it would start after two minutes, and meet the same limit again.
            cluster.ask("scontrol", "update", f"JobId={number[which]}", "StartTime=now", "TimeLimit=10")
        output, _ = sweep.communicate(timeout=PATIENCE)
    holds[CANCELLED].unlink()
    assert sweep.returncode == 1, output
    return output


def test_a_cancelled_job_is_named_and_the_others_go_on(troubled: str, job: Path) -> None:
    failed = [line for line in troubled.splitlines() if line.startswith("segflow train ")]
    assert len(failed) == 1, troubled
    assert "configuration=3d_fullres fold=0: it was cancelled" in failed[0]
    assert epochs(job, *QUIET) == [0, 1]


def test_jobs_that_are_queued_again_go_on_from_their_checkpoint(troubled: str, job: Path) -> None:
    assert epochs(job, *LIMITED) == [0, 1, 1], troubled
    assert epochs(job, *PREEMPTED) == [0, 1, 1], troubled


def test_the_second_start_trains_what_is_missing_and_the_third_one_nothing(
    troubled: str, cluster: SlurmCluster, job: Path
) -> None:
    submitted = cluster.submitted()
    second = segflow(job, "train", *SWEEP, HELD, *SLURM, **cluster.environment)
    assert second.returncode == 0, second.stdout
    assert epochs(job, *CANCELLED) == [0, 1, 1]
    assert cluster.submitted() == submitted + 1
    check_runs(job, *JOBS)
    third = segflow(job, "train", *SWEEP, HELD, *SLURM, **cluster.environment)
    assert third.returncode == 0, third.stdout
    assert cluster.submitted() == submitted + 1
    assert not cluster.jobs()


def test_a_job_that_may_not_be_queued_again_is_named(cluster: SlurmCluster, job: Path) -> None:
    which = ("2d", 2)
    hold(job, *which)
    command = ["train", "-m", "configuration=2d", "fold=2", *SHORT, HELD, *SLURM, "hydra.launcher.max_num_timeout=0"]
    with started(job, *command, **cluster.environment) as sweep:
        wait_until(lambda: in_second_epoch(job, *which), "job in its second epoch", sweep)
        cluster.ask("scancel", "--signal=USR2", *cluster.jobs())  # what SLURM sends before the time limit
        output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 1
    assert "it met its time limit, and hydra.launcher.max_num_timeout allows no more" in output
    wait_until_empty(cluster)


def test_a_sweep_that_is_ended_cancels_its_jobs(cluster: SlurmCluster, job: Path) -> None:
    with started(job, "train", *SWEEP, HELD, *SLURM, "run_name=ended", **cluster.environment) as sweep:
        wait_until(cluster.jobs, "jobs in the queue", sweep)
        sweep.terminate()
        output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 143, output
    assert "to continue, run the same command again" in output
    wait_until_empty(cluster)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["hydra.launcher.partition=nowhere"],
            "SLURM does not take the jobs; found invalid partition specified: nowhere",
        ),
        (["hydra.launcher.timeout_min=soon"], 'SLURM does not take the jobs; found Parameter "timeout_min" expected'),
    ],
)
def test_what_slurm_does_not_take_is_told_in_one_line(
    options: list[str], told: str, cluster: SlurmCluster, tmp_path: Path
) -> None:
    result = segflow(tmp_path, *LEAST, "hydra/launcher=slurm", *options, **cluster.environment)
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1, result.stdout
    assert told in result.stdout
    assert not cluster.jobs()
    assert not (tmp_path / "outputs" / ".jobs").exists()


def test_a_machine_without_slurm_is_told_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'segflow[launchers]'")
    result = segflow(tmp_path, *LEAST, "hydra/launcher=slurm", PATH="/nonexistent")
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1, result.stdout
    assert "hydra/launcher=slurm needs sbatch, which is not on PATH" in result.stdout


def test_ranks_that_srun_starts_train_one_fold(cluster: SlurmCluster, job: Path) -> None:
    two = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
    train = [sys.executable, "-m", "segflow", "train", "configuration=3d_fullres", "fold=3", *SHORT, *two]
    ranks = subprocess.run(
        ["srun", "--ntasks-per-node=2", *train],
        cwd=job,
        env={**os.environ, **cluster.environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ranks.returncode == 0, ranks.stderr
    assert ranks.stdout.count("Validation cases of") == 1
    run = job / RUNS / "3d_fullres" / "default" / "fold_3"
    assert (run / "validation" / "summary.json").is_file()
    assert len((run / "metrics.csv").read_text().splitlines()) == 3  # a heading and two epochs


def test_shards_leave_the_scores_of_one_process(cluster: SlurmCluster, job: Path) -> None:
    places = "prediction=data/raw/{0}/labelsTr reference=data/preprocessed/{0}/gt_segmentations"
    words = ["evaluate", *places.format("Dataset001_Phantom").split(), "processes=0"]
    shared = segflow(job, *words, "output=shared", "shards=3", *SLURM, **cluster.environment)
    assert shared.returncode == 0, shared.stdout
    assert "part=2/3: done" in shared.stdout
    assert segflow(job, *words, "output=one").returncode == 0
    for name in ("summary.json", "metrics.csv"):
        assert (job / "shared" / name).read_bytes() == (job / "one" / name).read_bytes()


def wait_until_empty(cluster: SlurmCluster) -> None:
    end = time.monotonic() + PATIENCE
    while cluster.jobs():
        assert time.monotonic() < end, cluster.jobs()
        time.sleep(0.2)
