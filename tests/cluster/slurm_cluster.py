"""A SLURM cluster of one node on loopback, from the distribution's own packages, with all its state in one folder."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "setpriv")
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")
CORES = 8
"""More than there may be: jobs of these tests mostly wait."""
READY_WITHIN = 60.0
CLEAN_WITHIN = 30.0
"""Seconds. Both take about one."""

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MinJobAge=7200
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=0
KillWait=5
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=8000 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class CannotStartError(Exception):
    """SLURM cannot be started here; the text says why."""


@dataclass(frozen=True)
class SlurmCluster:
    """A running cluster.

    Attributes:
        folder: Its state and logs.
        environment: Variables with which SLURM's commands find it.
    """

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str) -> str:
        """Standard output of one of SLURM's commands."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()

    def jobs(self) -> dict[str, str]:
        """Job in the queue, such as ``12_0`` → its state, such as ``RUNNING``."""
        lines = self.ask("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def minutes_of(self, job: str) -> int:
        """Full minutes for which a job has run."""
        return int(self.ask("squeue", "--noheader", "--format=%M", f"--jobs={job}").split(":")[-2])

    def submitted(self) -> int:
        """How many jobs were ever submitted, each one of an array counted."""
        return len(self.ask("scontrol", "show", "job", "--oneliner").splitlines())


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """A cluster that runs during the block.

    Args:
        folder: An empty folder with a short path, since it holds a socket.

    Raises:
        CannotStartError: A program is missing, or a daemon does not start.
    """
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        raise CannotStartError(f"not installed: {', '.join(missing)} (Debian: slurm-wlm and munge; make cluster)")
    with ExitStack() as stack:
        cluster = _start(folder, stack)
        stack.callback(_cancel_all, cluster)
        yield cluster


def _start(folder: Path, stack: ExitStack) -> SlurmCluster:
    for name in ("controller", "node"):
        (folder / name).mkdir()
    ports = _free_ports(2)
    values = {
        "host": socket.gethostname().split(".")[0],
        "user": getpass.getuser(),
        "folder": folder,
        "cores": CORES,
        "controller_port": ports[0],
        "node_port": ports[1],
    }
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
    subprocess.run([str(_program("mungekey")), "--create", "--keyfile", str(folder / "munge.key")], check=True)
    cluster = SlurmCluster(folder, {"SLURM_CONF": str(folder / "slurm.conf")})
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{option}={folder}/munge.{ending}" for option, ending in files.items()]
    commands = (["munged", "--foreground", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"])
    daemons = [_run(command, cluster, stack) for command in commands]
    end = time.monotonic() + READY_WITHIN
    while (state := _state(cluster)) != "idle":
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
            logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(folder.glob("*.log")))
            raise CannotStartError(f"SLURM does not start: {state}\n{logs}")
        time.sleep(0.2)
    return cluster


def _state(cluster: SlurmCluster) -> str:
    """State of the only node, or why it is not known."""
    try:
        return cluster.ask("sinfo", "--noheader", "--format=%T")
    except subprocess.CalledProcessError as error:
        return str(error.stderr)


def _run(command: Sequence[str], cluster: SlurmCluster, stack: ExitStack) -> subprocess.Popen[bytes]:
    """Start a daemon that ends with the block, or with this process however it ends."""
    program, *arguments = command
    log = stack.enter_context((cluster.folder / f"{program}.out.log").open("wb"))
    daemon = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", str(_program(program)), *arguments],
        env={**os.environ, **cluster.environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )

    def stop() -> None:
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    stack.callback(stop)
    return daemon


def _cancel_all(cluster: SlurmCluster) -> None:
    """End all jobs and wait until the node has cleaned up after them."""
    cluster.ask("scancel", "--partition=test")
    end = time.monotonic() + CLEAN_WITHIN
    while cluster.jobs() and time.monotonic() < end:
        time.sleep(0.2)


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS]))


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
