"""The place of this process among those that train one fold together, as its launcher tells it by the environment.

It is known before torch is loaded, so that only one process reports, and before Lightning's Trainer exists, so that
only one process claims the run's folder. The variables are those that Lightning's cluster environments read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segflow.core.errors import SegflowError

TORCHRUN, SRUN, JSRUN, LIGHTNING = "torchrun", "srun", "jsrun", "lightning"
"""Launchers. ``lightning`` itself starts the other processes of a machine, when the training begins."""

PARENT = "SEGFLOW_RANK_PARENT"
"""Environment variable with the number of the process that starts ranks through Lightning."""


@dataclass(frozen=True, slots=True)
class Place:
    """Place of this process among those that train one fold.

    Attributes:
        launcher: What started the processes: ``torchrun``, ``srun``, ``jsrun`` or ``lightning``.
        node: Number of its machine.
        local_rank: Its number on its machine.
        rank: Its number among all, 0 first; None if it is not known yet.
        together: Number of processes that exist before the training begins. Lightning starts the others then.
        several: Whether there may be other processes at all.
    """

    launcher: str = LIGHTNING
    node: int = 0
    local_rank: int = 0
    rank: int | None = 0
    together: int = 1
    several: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process claims the folder, writes and reports."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """The process for a message."""
        return f"process {self.local_rank} of node {self.node}" if self.rank is None else f"rank {self.rank}"


def place_of(devices: object, num_nodes: int, strategy: object = "auto") -> Place:
    """The place of this process.

    Args:
        devices: ``trainer.devices``: a number, a list, or a text such as ``auto``.
        num_nodes: ``trainer.num_nodes``.
        strategy: ``trainer.strategy``. Those that start processes within Python have no launcher.

    Raises:
        SegflowError: torchrun started several processes for a trainer of one, or several nodes have no common address.
    """
    count = _count(devices)
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if count == 1 and num_nodes == 1:
        if torchrun and int(os.environ["WORLD_SIZE"]) > 1:
            raise SegflowError(
                f"torchrun started {os.environ['WORLD_SIZE']} processes, and the trainer's settings are for one",
                fix=f"Give trainer.devices={os.environ.get('LOCAL_WORLD_SIZE', 'N')} trainer.num_nodes="
                f"{os.environ.get('GROUP_WORLD_SIZE', 'N')} trainer.strategy=ddp, or start without torchrun.",
            )
        return Place()
    if isinstance(strategy, str) and strategy.endswith(("spawn", "fork", "notebook")):
        return Place()
    if torchrun:
        return _given(TORCHRUN, "GROUP_RANK", "LOCAL_RANK", "RANK", "WORLD_SIZE")
    if _is_srun():
        return _given(SRUN, "SLURM_NODEID", "SLURM_LOCALID", "SLURM_PROCID", "SLURM_NTASKS")
    if "JSM_NAMESPACE_RANK" in os.environ:
        rank = "JSM_NAMESPACE_RANK"  # it does not tell the machine, so that each process counts as one
        return _given(JSRUN, rank, "JSM_NAMESPACE_LOCAL_RANK", rank, "JSM_NAMESPACE_SIZE")
    return _of_lightning(count, num_nodes)


def _is_srun() -> bool:
    """Whether srun started this process as one of several. A batch script itself, and a job's only task, are not."""
    tasks = os.environ.get("SLURM_NTASKS", "1")
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # as in Lightning
    return int(tasks) > 1 and "SLURM_STEP_ID" in os.environ and not interactive


def _given(launcher: str, node: str, local: str, rank: str, world: str) -> Place:
    """A place of which the launcher's variables, given by name, tell everything."""
    values = (int(os.environ.get(name, 0)) for name in (node, local, rank, world))
    node_number, local_rank, number, count = values
    return Place(launcher, node_number, local_rank, number, count, several=count > 1)


def _of_lightning(devices: int | None, num_nodes: int) -> Place:
    local = int(os.environ.get("LOCAL_RANK", 0))
    if num_nodes == 1:
        return Place(LIGHTNING, 0, local, local, 1, several=True)
    missing = [name for name in ("MASTER_ADDR", "NODE_RANK") if name not in os.environ]
    if missing:
        raise SegflowError(
            f"trainer.num_nodes={num_nodes} needs the machines to find each other",
            found=f"no {', '.join(missing)} in the environment",
            fix="Start with torchrun or srun; or set on every machine MASTER_ADDR, the address of the first one, and "
            "NODE_RANK, the machine's number from 0.",
        )
    node = int(os.environ["NODE_RANK"])
    known = node * devices + local if devices else 0 if node == local == 0 else None
    return Place(LIGHTNING, node, local, known, num_nodes, several=True)


def _count(devices: object) -> int | None:
    """Number of devices that the setting names; None if only the machine can tell."""
    if isinstance(devices, int) and devices > 0:
        return int(devices)
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    text = str(devices).strip()
    if "," in text:
        return len([part for part in text.split(",") if part.strip()])
    return int(text) if text.isdigit() and int(text) > 0 else None


def is_started_by_lightning(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether Lightning started this process as a further rank of its parent."""
    return environment.get(PARENT) == str(os.getppid()) and int(environment.get("LOCAL_RANK", 0)) > 0
