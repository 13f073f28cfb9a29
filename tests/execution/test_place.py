"""The place of a process, which must be the one that Lightning sees later."""

from __future__ import annotations

import os

import pytest
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from segflow.core.errors import SegflowError
from segflow.execution.place import PARENT, is_started_by_lightning, place_of
from segflow.training.meeting import cluster_environment

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29501",
}
SRUN = {
    "SLURM_JOB_ID": "1234",
    "SLURM_JOB_NAME": "train",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NODELIST": "gpu[3-4]",
}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SRUN, "NODE_RANK", PARENT):
        monkeypatch.delenv(name, raising=False)


def with_environment(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_one_device_is_one_process_whatever_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with_environment(monkeypatch, SRUN)  # a fold for each task of srun
    place = place_of(1, 1)
    assert place.is_first
    assert not place.several


@pytest.mark.parametrize("devices", [2, "2", [0, 1], "0,1", "auto", -1])
def test_the_first_process_of_a_machine_waits_for_nobody(devices: object) -> None:
    place = place_of(devices, 1)
    assert place.is_first
    assert place.several
    assert place.together == 1


@pytest.mark.parametrize(("values", "kind"), [(TORCHRUN, TorchElasticEnvironment), (SRUN, SLURMEnvironment)])
def test_the_numbers_are_those_of_lightning(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], kind: type
) -> None:
    with_environment(monkeypatch, values)
    place = place_of(2, 2, "ddp")
    lightning = cluster_environment(place)
    assert isinstance(lightning, kind)
    assert kind.detect()  # type: ignore[attr-defined]
    assert (place.rank, place.local_rank, place.node, place.together) == (
        lightning.global_rank(),
        lightning.local_rank(),
        lightning.node_rank(),
        lightning.world_size(),
    )
    assert not place.is_first


@pytest.mark.parametrize("alone", [{"SLURM_NTASKS": "1"}, {"SLURM_JOB_NAME": "bash"}, {"SLURM_STEP_ID": None}], ids=str)
def test_a_job_whose_other_processes_srun_does_not_start_starts_them_itself(
    monkeypatch: pytest.MonkeyPatch, alone: dict[str, str | None]
) -> None:
    values = {**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", **alone}
    with_environment(monkeypatch, {name: value for name, value in values.items() if value is not None})
    place = place_of(2, 1)
    assert place.is_first
    assert not cluster_environment(place).creates_processes_externally


def test_the_first_process_of_a_second_node_is_not_the_first_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with_environment(monkeypatch, {"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "1"})
    assert place_of(2, 2).rank == 2
    assert not place_of("auto", 2).is_first


def test_several_nodes_without_an_address_are_refused_with_the_ways_to_start_them() -> None:
    with pytest.raises(SegflowError, match=r"MASTER_ADDR.*torchrun or srun"):
        place_of(1, 2)


def test_torchrun_for_a_trainer_of_one_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_environment(monkeypatch, TORCHRUN)
    with pytest.raises(SegflowError, match=r"started 4 processes.*trainer.devices=2 trainer.num_nodes=2"):
        place_of(1, 1)


def test_only_a_child_of_the_starting_process_is_a_further_rank() -> None:
    assert is_started_by_lightning({PARENT: str(os.getppid()), "LOCAL_RANK": "1"})
    assert not is_started_by_lightning({PARENT: "1", "LOCAL_RANK": "1"})
    assert not is_started_by_lightning({PARENT: str(os.getppid()), "LOCAL_RANK": "0"})
