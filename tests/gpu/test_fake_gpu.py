"""Memory and precision of full-size steps on a GPU, on a machine that has none: see `fake_gpu`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_full_size_steps(guarded: dict[str, str]) -> None:
    steps = Path(__file__).with_name("fake_steps.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(steps)]
    done = subprocess.run(command, env=guarded, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
