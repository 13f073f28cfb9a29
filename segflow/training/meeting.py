"""Where the processes of a training meet: a store of torch's that rank 0 keeps, or torchrun."""

from __future__ import annotations

import logging
import os
import socket
import time
from datetime import timedelta

import torch.distributed as dist
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from segflow.core.errors import SegflowError
from segflow.execution.place import JSRUN, LIGHTNING, SRUN, TORCHRUN, Place

PATIENCE = 300.0
"""Seconds in which rank 0 must be found. Machines of a job may start minutes apart."""

DEFAULT_PORT = "29500"

logger = logging.getLogger(__name__)


def cluster_environment(place: Place) -> ClusterEnvironment:
    """Lightning's environment of a launcher, which has its addresses and numbers."""
    if place.launcher == SRUN:
        # Lightning's own requeueing saves within an epoch, requeues, and trains on until it is killed.
        return SLURMEnvironment(auto_requeue=False)
    if place.launcher == TORCHRUN:
        return TorchElasticEnvironment()
    if place.launcher == JSRUN:
        return LSFEnvironment()
    return LightningEnvironment()


def open_store(place: Place) -> dist.TCPStore:
    """Open the store as rank 0.

    Raises:
        SegflowError: The address or port cannot be used.
    """
    if place.launcher == TORCHRUN:
        return find_store(place)  # it has opened one
    if place.launcher == LIGHTNING and place.together == 1 and "MASTER_PORT" not in os.environ:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ["MASTER_PORT"] = "0"  # any free one
    host, port = _address(place)
    try:
        store = connect(host, port, keep=True)
    except RuntimeError as error:
        raise SegflowError(
            f"the processes of this training cannot meet at {host}, port {port}",
            found=str(error).splitlines()[0],
            fix="Set MASTER_PORT to a free port, the same on every machine, and MASTER_ADDR to an address of this one.",
        ) from error
    os.environ["MASTER_PORT"] = str(store.port)
    return store


def find_store(place: Place) -> dist.TCPStore:
    """Find the store that rank 0 keeps, which may start later.

    Raises:
        SegflowError: Nobody answers in time.
    """
    host, port = _address(place)
    begun, is_told = time.monotonic(), False
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return connect(host, port)
        except (OSError, RuntimeError) as error:
            waited = time.monotonic() - begun
            if waited > PATIENCE:
                raise SegflowError(
                    f"{place.name} cannot find rank 0 at {host}, port {port}",
                    found=f"{error} for {waited:.0f} s",
                    fix="Start all processes. MASTER_ADDR and MASTER_PORT must be the same everywhere, with no "
                    "firewall between the machines.",
                ) from error
            if waited > 10 and not is_told:
                is_told = True
                logger.error("%s waits for rank 0 at %s, port %d", place.name, host, port)
            time.sleep(0.5)


def connect(host: str, port: int, *, keep: bool = False) -> dist.TCPStore:
    """A connection to the store; ``keep`` opens it. Torch's process group finds it there, within this process too."""
    return dist.TCPStore(host, port, None, keep, timedelta(seconds=30), wait_for_workers=False, multi_tenant=True)


def _address(place: Place) -> tuple[str, int]:
    if place.launcher == LIGHTNING:
        os.environ.setdefault("MASTER_PORT", DEFAULT_PORT)
    environment = cluster_environment(place)
    return environment.main_address, environment.main_port
