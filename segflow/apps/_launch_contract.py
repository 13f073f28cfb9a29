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

ANSWER_SECONDS = 25.0
"""How long a cluster may take to answer."""


def last_line(text: str) -> str:
    """The last line of a message that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" -")]
    return lines[-1] if lines else "no cause given"
