"""What an engine of a launcher is given, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from segflow.apps._launched_child import Child, JobEnd

Options = Mapping[str, Any]
Events = Generator[JobEnd | None, None, None]
Engine = Callable[[Sequence[Child], Options], Events]

OWN = ("_target_", "engine", "folder", "retries")
"""Options that concern no engine."""

IN_THIS_PROCESS = ("BasicLauncher", "InTurn")
"""Classes of launchers that run jobs in this process: Hydra's own, and segflow's default."""

ANSWER_SECONDS = 25.0
"""How long a cluster may take to answer."""


def is_in_this_process(target: str) -> bool:
    """Whether a launcher's class runs jobs in this process, one after another."""
    return target.rpartition(".")[2] in IN_THIS_PROCESS


def last_line(text: str) -> str:
    """The last line of a message that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" -")]
    return lines[-1] if lines else "no cause given"
