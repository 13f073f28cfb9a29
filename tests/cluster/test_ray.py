"""A sweep on a Ray cluster of two nodes, one of which is lost in the middle."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_nodes import RayCluster, ray_cluster
from sweep import (
    HELD,
    JOBS,
    LEAST,
    PATIENCE,
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

pytest.importorskip("ray", reason="Ray is not installed: pip install 'segflow[ray]'")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the phantom is prepared."""
    return prepare(tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="module")
def cluster(job: Path) -> Iterator[RayCluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # pytest's own folders have too long paths for a socket
    try:
        with ray_cluster(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_jobs_of_a_lost_node_go_on_on_another_one(cluster: RayCluster, job: Path) -> None:
    command = ["train", *SWEEP, HELD, "hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster.address}"]
    holds = {which: hold(job, *which) for which in JOBS}
    with started(job, *command) as sweep:
        wait_until(
            lambda: all(in_second_epoch(job, *which) for which in JOBS), "four jobs in their second epoch", sweep
        )
        cluster.lose_a_node()
        for file in holds.values():
            file.unlink()
        output, _ = sweep.communicate(timeout=PATIENCE)
    assert sweep.returncode == 0, output
    check_runs(job, *JOBS)
    assert sorted(epochs(job, *which) for which in JOBS) == [[0, 1], [0, 1], [0, 1, 1], [0, 1, 1]], output
    again = segflow(job, *command)
    assert again.returncode == 0, again.stdout
    assert sum(len(epochs(job, *which)) for which in JOBS) == 10


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379"])
def test_an_address_where_nothing_answers_is_told_in_one_line(address: str, tmp_path: Path) -> None:
    result = segflow(tmp_path, *LEAST, "hydra/launcher=ray", f"hydra.launcher.ray.init.address={address}")
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1, result.stdout
    assert f"no Ray cluster answers at {address}" in result.stdout
    assert not (tmp_path / "outputs" / ".jobs").exists()


def test_something_else_that_answers_is_not_taken_for_ray(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        result = segflow(tmp_path, *LEAST, "hydra/launcher=ray", f"hydra.launcher.ray.init.address={address}")
        thread.join(10)
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1, result.stdout
    assert "what answers there is not Ray" in result.stdout
