"""What a user with GPUs relies on, on a machine that has none: see `pretended_cuda`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cuda_guard
import pytest

REAL = "SEGFLOW_TEST_DEVICE"
"""The environment variable that names a real device for the checks of values."""

HERE = Path(__file__).parent
CHECKS = sorted(file.name for file in HERE.glob("*_checks.py"))


@pytest.mark.parametrize("checks", CHECKS)
def test_on_pretended_gpus(checks: str, guarded: dict[str, str]) -> None:
    """Each file of checks has a process of its own, since torch keeps what it was told about GPUs."""
    environment = {key: value for key, value in guarded.items() if key != REAL}
    run(checks, {**environment, cuda_guard.DEVICES: "2"}, "-p", "pretended_cuda")


@pytest.mark.skipif(REAL not in os.environ, reason=f"{REAL} names no device")
def test_on_a_real_device() -> None:
    run("value_checks.py", dict(os.environ))


def run(checks: str, environment: dict[str, str], *options: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options]
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(HERE / checks)],
        env={**environment, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
