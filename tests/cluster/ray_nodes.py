"""A Ray cluster of two nodes on loopback, in a process of its own: it ends with its standard input.

Run as a script. It writes the address when both nodes are there. At a line of input it loses the second node.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CORES = 2
"""Cores of each node, as Ray counts them."""


@dataclass(frozen=True)
class RayCluster:
    """A running cluster.

    Attributes:
        address: Its address, for ``hydra.launcher.ray.init.address``.
        process: The process that holds it.
    """

    address: str
    process: subprocess.Popen[str]

    def lose_a_node(self) -> None:
        """Kill all processes of Ray on the second node."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "lost"


@contextmanager
def ray_cluster(folder: Path) -> Iterator[RayCluster]:
    """A cluster that runs during the block.

    Args:
        folder: An empty folder with a short path, since it holds sockets.
    """
    command = [sys.executable, __file__, str(folder)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)},
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, (folder / "log").read_text()
        yield RayCluster(address, process)
    finally:
        process.communicate(timeout=120)


def main(folder: str) -> None:
    from ray.cluster_utils import Cluster

    place = {"num_cpus": CORES, "object_store_memory": 80_000_000}
    head = {**place, "temp_dir": f"{folder}/ray", "include_dashboard": False}
    with os.fdopen(os.dup(1), "w") as said:
        os.dup2(2, 1)
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            second = cluster.add_node(**place)
            print(cluster.address, file=said, flush=True)
            for _ in sys.stdin:
                cluster.remove_node(second, allow_graceful=False)
                print("lost", file=said, flush=True)
        finally:
            cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
