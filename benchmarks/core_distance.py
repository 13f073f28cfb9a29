"""How far apart two cores are: nanoseconds that a written byte takes from the one to the other, a Python loop included.

Of a virtual machine the host moves the cores about. Cores that share a cache are near, cores on different chiplets far
apart, and a training step, whose threads pass each other their results, takes longer there.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time

ROUNDS = 4000
TRIES = 10
"""The quickest of these counts: whatever else runs makes it longer, and nothing makes it shorter."""

_REPLY = 128
"""Bytes between the two flags, so that they never share a cache line."""


def core_distance() -> float | None:
    """Between the first two cores that this process may use; None where there is one.

    Another process measures it: this one's memory would have to be copied, page by page, after a fork.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return None
    command = [sys.executable, "-S", __file__, *map(str, cores)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _round_trips(here: int, there: int) -> float:
    flags = mmap.mmap(-1, mmap.PAGESIZE)
    child = os.fork()
    if child == 0:
        os.sched_setaffinity(0, {there})
        for turn in range(ROUNDS):
            while flags[0] == turn & 1:
                pass
            flags[_REPLY] = 1 - (turn & 1)
        os._exit(0)
    os.sched_setaffinity(0, {here})
    begun = time.perf_counter()
    for turn in range(ROUNDS):
        flags[0] = 1 - (turn & 1)
        while flags[_REPLY] == turn & 1:
            pass
    seconds = time.perf_counter() - begun
    os.waitpid(child, 0)
    return seconds / ROUNDS / 2 * 1e9


if __name__ == "__main__":
    print(min(_round_trips(int(sys.argv[1]), int(sys.argv[2])) for _ in range(TRIES)))
