"""Several processes that train one fold: how they start, meet, share the work, and end together (gloo, CPU)."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from apps_commands import PATHS, SHORT
from forked_commands import Fork

from segflow.storage.folds import Fold
from segflow.training.watch import is_alive

TWO = ["trainer.devices=2", "trainer.accelerator=cpu", "trainer.strategy=ddp"]
TWO_NODES = ["trainer.num_nodes=2", "trainer.accelerator=cpu", "trainer.strategy=ddp"]
QUICK = [*SHORT, "fold=0", "trainer.max_epochs=1", "validation=false"]
LONG = [*SHORT, "fold=0", "trainer.max_epochs=1000", "validation=false"]
HANGS = 240
"""Seconds after which a test is ended on a very busy machine."""


class Started:
    """A command that runs, with its output in a file."""

    def __init__(self, file: Path, process: subprocess.Popen[bytes] | Fork) -> None:
        self.file, self.process = file, process
        self.others: list[int] = []

    @property
    def output(self) -> str:
        return self.file.read_text(errors="replace")

    def children(self) -> list[int]:
        """Processes that it started, first the oldest."""
        folder = Path(f"/proc/{self.process.pid}/task/{self.process.pid}")
        return sorted(int(number) for number in (folder / "children").read_text().split())

    def until(self, text: str) -> Started:
        """Wait until it has printed this."""
        end = time.monotonic() + HANGS
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, f"no '{text}' in: {self.output}"
            time.sleep(0.1)
        self.others = self.children()
        return self

    def ended(self, seconds: float = HANGS) -> int:
        """Its exit code, when it and the processes that it had started have ended."""
        code = self.process.wait(seconds)
        end = time.monotonic() + seconds
        while any(is_alive(pid) for pid in self.others):
            assert time.monotonic() < end, f"a process is left: {self.output}"
            time.sleep(0.1)
        return code


class Starter:
    """Starts commands, and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Started] = []
        clean = {key: value for key, value in os.environ.items() if key not in PATHS}
        self.environment = {**clean, "OMP_NUM_THREADS": "1"}

    def train(self, *arguments: str, **environment: str) -> Started:
        file = self._new_file()
        variables = {**self.environment, **environment}
        return self._kept(file, Fork(self.folder, ("train", *arguments), variables, file, file, session=True))

    def torchrun(self, options: Sequence[str], *arguments: str) -> Started:
        words = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "segflow", "train", *arguments]
        file = self._new_file()
        with file.open("w") as out:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )
        return self._kept(file, process)

    def _new_file(self) -> Path:
        return self.folder / f"{time.monotonic_ns()}.output"

    def _kept(self, file: Path, process: subprocess.Popen[bytes] | Fork) -> Started:
        self.started.append(Started(file, process))
        return self.started[-1]

    def close(self) -> None:
        for started in self.started:
            for pid in {*started.others, *(started.children() if started.process.poll() is None else [])}:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if started.process.poll() is None:
                started.process.kill()
                started.process.wait()


@pytest.fixture
def starter(job: Path) -> Iterator[Starter]:
    starter = Starter(job)
    yield starter
    starter.close()


def fold(job: Path, run_name: str) -> Fold:
    return Fold(job / "outputs" / "Dataset001_Phantom" / "tinyPlans" / "3d_fullres" / run_name / "fold_0")


def epochs(run: Fold) -> list[dict[str, str]]:
    with run.metrics_csv.open() as file:
        return list(csv.DictReader(file))


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def by_torchrun(starter: Starter, *arguments: str) -> list[Started]:
    """Two nodes of one process, as two machines start them."""
    port = free_port()
    common = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}")
    return [starter.torchrun([*common, f"--node-rank={node}"], *arguments, *TWO_NODES) for node in (0, 1)]


def by_srun(starter: Starter, *arguments: str) -> list[Started]:
    """Two tasks on two nodes, with the variables that srun sets."""
    job = {
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NAME": "train",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_NODELIST": "localhost",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_LOCALID": "0",
        "MASTER_PORT": free_port(),
    }
    return [
        starter.train(*arguments, *TWO_NODES, **job, SLURM_PROCID=str(node), SLURM_NODEID=str(node)) for node in (0, 1)
    ]


def by_hand(starter: Starter, *arguments: str) -> list[Started]:
    """The command on each of two machines, with the address of the first one."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [starter.train(*arguments, *TWO_NODES, **where, NODE_RANK=str(node)) for node in (0, 1)]


WAYS = {"torchrun": by_torchrun, "srun": by_srun, "NODE_RANK": by_hand}


def test_two_processes_share_the_validation_and_predict_what_one_does(job: Path, starter: Starter) -> None:
    both = [*SHORT, "fold=0", "run_name=shared", "trainer.max_epochs=1", "training.volume_every=1"]
    started = starter.train(*both, *TWO)
    assert started.ended() == 0, started.output
    run = fold(job, "shared")
    maps = {file.name: file.read_bytes() for file in run.validation.glob("*.nii.gz")}
    summary = json.loads((run.validation / "summary.json").read_text())
    assert len(maps) == len(summary["metric_per_case"]) == 4
    assert started.output.count("validate 2/2") == 1  # the share of rank 0

    alone = starter.train(*both, "inference.resume=false")
    assert alone.ended() == 0, alone.output
    assert maps == {file.name: file.read_bytes() for file in run.validation.glob("*.nii.gz")}
    assert summary == json.loads((run.validation / "summary.json").read_text())

    dice = [scores["Dice"] for scores in summary["mean"].values()]
    assert float(epochs(run)[-1]["val_volume/dice_mean"]) == pytest.approx(sum(dice) / len(dice), abs=1e-6)
    leftovers = [path for path in run.path.rglob("*") if path.name.startswith((".writing", ".making"))]
    assert leftovers == []

    # The finished fold again, with a case of rank 1 that cannot be written.
    blocked = run.validation / sorted(maps)[1]
    blocked.unlink()
    blocked.mkdir()
    again = starter.torchrun(["--nproc-per-node=2", "--standalone"], *both, *TWO)
    assert again.ended() == 1
    case = blocked.name.removesuffix(".nii.gz")
    assert f"case '{case}'" in again.output, again.output
    written = {file.name for file in run.validation.glob("*.nii.gz") if file.is_file()}
    assert written == {*maps} - {blocked.name}
    blocked.rmdir()


def test_a_lost_or_ended_process_ends_the_other_and_the_next_start_goes_on(job: Path, starter: Starter) -> None:
    run = fold(job, "lost")

    def started() -> Started:
        done = len(epochs(run)) if run.metrics_csv.is_file() else 0
        return starter.train(*LONG, *TWO, "run_name=lost").until(f"epoch {done + 1}/")

    first = started()
    os.kill(first.others[0], signal.SIGKILL)
    assert first.ended() == 1
    assert first.output.count("rank 1 (process ") == 1
    assert "was killed by SIGKILL" in first.output
    assert "run the same command again" in first.output
    assert "gloo" not in first.output
    assert "Traceback" not in first.output
    assert "was killed by SIGKILL" in run.log_file.read_text()

    second = started()
    second.process.kill()
    assert second.ended() != 0
    assert second.output.count("rank 0 (process ") == 1
    assert "was lost" in second.output or "was killed" in second.output
    assert "Traceback" not in second.output

    third = started()
    os.killpg(third.process.pid, signal.SIGTERM)
    assert third.ended() == 143
    assert third.output.count("ended by SIGTERM") == 1
    assert "Traceback" not in third.output

    fourth = started()
    os.kill(fourth.others[0], signal.SIGTERM)  # as a launcher that knows only this process
    assert fourth.ended() == 143
    assert fourth.output.count("ended by SIGTERM") == 1

    trained = [int(float(row["epoch"])) for row in epochs(run)]
    assert trained == list(range(len(trained)))
    assert len(trained) >= 4


@pytest.mark.parametrize("way", WAYS)
def test_two_nodes_train_one_fold(job: Path, starter: Starter, way: str) -> None:
    name = f"nodes_{way}"
    nodes = WAYS[way](starter, *QUICK, f"run_name={name}")
    assert [node.ended() for node in nodes] == [0, 0], "\n".join(node.output for node in nodes)
    run = fold(job, name)
    assert run.is_finished()
    assert len(epochs(run)) == 1
    first, second = (node.output for node in nodes)
    assert first.count("3d_fullres fold 0:") == 1
    assert "3d_fullres fold 0:" not in second
    # torchrun notes a traceback of its own if the other machine's torchrun is gone before it.
    own = [line for line in (first + second).splitlines() if "torch/distributed/elastic" not in line]
    assert not [line for line in own if "Traceback" in line]


@pytest.mark.parametrize("way", WAYS)
def test_the_reason_of_rank_0_for_not_starting_ends_all(job: Path, starter: Starter, way: str) -> None:
    name = f"held_{way}"
    with fold(job, name).locked():
        nodes = WAYS[way](starter, *QUICK, f"run_name={name}")
        assert all(node.ended() for node in nodes)
    for node in nodes:
        assert f"process {os.getpid()} on {socket.gethostname()}, since " in node.output, node.output
        assert node.output.count("another process trains in") == 1, node.output


def test_a_machine_that_sees_other_files_ends_all_with_its_name(job: Path, starter: Starter) -> None:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    common = [*QUICK, *TWO_NODES, "run_name=paths"]
    first = starter.train(*common, **where, NODE_RANK="0")
    second = starter.train(*common, "paths.preprocessed=elsewhere", **where, NODE_RANK="1")
    assert first.ended() == second.ended() == 1
    assert "rank 1 (process " in first.output
    assert "elsewhere" in first.output
    assert "elsewhere" in second.output


def test_a_machine_without_the_folder_of_the_run_is_refused(job: Path, starter: Starter) -> None:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    common = [*QUICK, *TWO_NODES, "run_name=unshared"]
    first = starter.train(*common, **where, NODE_RANK="0")
    second = starter.train(*common, "paths.outputs=of_this_machine", **where, NODE_RANK="1")
    assert first.ended() == second.ended() == 1
    for node in (first, second):
        assert "is not the same folder" in node.output, node.output
    assert not (job / "of_this_machine" / "Dataset001_Phantom").exists()


def test_torchrun_names_a_killed_process_once(job: Path, starter: Starter) -> None:
    started = starter.torchrun(["--nproc-per-node=2", "--standalone"], *LONG, *TWO, "run_name=elastic")
    started.until("epoch 1/")
    os.kill(started.others[-1], signal.SIGKILL)
    assert started.ended() == 1
    assert started.output.count("was killed, or ended without a message") == 1, started.output
    assert "ended by SIGTERM" not in started.output


def test_fewer_processes_than_torchrun_started_are_refused(job: Path, starter: Starter) -> None:
    started = starter.torchrun(["--nproc-per-node=2", "--standalone"], *QUICK, "run_name=one_device")
    assert started.ended() == 1
    assert "trainer.devices=2" in started.output
