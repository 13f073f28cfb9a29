"""Jobs on a Ray cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from segflow.apps._launch_contract import ANSWER_SECONDS, Events, Options, last_line
from segflow.apps._launched_child import Child, JobEnd, run_child
from segflow.core.errors import SegflowError

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""HTTP/2's frame of settings, without any. Byte 3 is its kind."""

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
"""What opens a connection of HTTP/2, which Ray speaks. Each side answers it with its settings."""


def ray(children: Sequence[Child], options: Options) -> Events:
    """On a Ray cluster."""
    import ray as engine

    own = dict(options.get("ray") or {})
    init = {"log_to_driver": False, "logging_level": "warning", **dict(own.get("init") or {})}
    address = init.get("address")
    try:
        if address is not None and ":" in address:
            _knock(address, engine.util.get_node_ip_address())
        engine.init(**init)
    except Exception as error:
        raise SegflowError(
            f"no Ray cluster answers at {address}" if address else "Ray does not start",
            found=last_line(str(error)),
            fix="Start one with ray start --head, and give hydra.launcher.ray.init.address=HOST:6379",
        ) from error
    remote = engine.remote(**dict(own["remote"]))(run_child) if own.get("remote") else engine.remote(run_child)
    waiting = {remote.remote(child): child for child in children}
    try:
        while waiting:
            for reference in engine.wait(list(waiting), timeout=0)[0]:
                child = waiting.pop(reference)
                try:
                    yield engine.get(reference)
                except engine.exceptions.RayError as error:
                    yield JobEnd(child.name, f"Ray lost the job: {last_line(str(error))}")
            yield None
    finally:
        for reference in waiting:
            engine.cancel(reference)
        engine.shutdown()


def _knock(address: str, own_address: str) -> None:
    """Ask once whether Ray answers at an address. Ray itself would try for minutes, also where something else answers.

    Raises:
        OSError, ValueError: Nothing answers, or something else does, or it is no address.
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    # Ray looks for ``localhost`` at its own address.
    at = own_address if host in ("localhost", "127.0.0.1") else host.strip("[]")
    with socket.create_connection((at, int(port)), timeout=ANSWER_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        connection.sendall(GREETING)
        answer = connection.recv(len(SETTINGS))
    if answer[3:4] != SETTINGS[3:4]:
        raise ConnectionError("what answers there is not Ray")
