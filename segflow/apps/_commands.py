"""The commands and the records of their settings."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segflow.apps._records import Command


def record_of(command: str) -> type[Command]:
    """The class whose fields are a command's settings: ``Train`` of ``train.py``. Loads neither torch nor Lightning."""
    record: type[Command] = getattr(importlib.import_module(f"segflow.apps.{command}"), command.title())
    return record


def job_of(command: str) -> Callable[[Any], float | None]:
    """Run a command with its settings. The result is the value that a sweep optimises."""
    job: Callable[[Any], float | None] = importlib.import_module(f"segflow.apps.{command}").run
    return job
