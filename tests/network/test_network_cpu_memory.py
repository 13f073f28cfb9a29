"""Tuning the process."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource, torch
from segflow.network.cpu_memory import tune_cpu

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(16_000_000).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
tune_cpu()
faults()
print(plain, faults(), float(torch.tensor(1e-40) * 0.5))
"""


def test_memory_is_kept_and_denormals_are_zero() -> None:
    if sys.platform != "linux":
        return
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    plain, tuned, denormal = (float(value) for value in done.stdout.split())
    assert tuned < plain / 10
    assert denormal == 0
