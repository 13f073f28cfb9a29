"""What a job keeps for the process that launched it: its value, the cases that failed, and its warnings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segflow.core.errors import UNUSABLE
from segflow.storage.json_files import read_json, write_json

VALUE_FILE = "SEGFLOW_VALUE_FILE"
"""Environment variable: the file into which a job writes its value, the cases that failed, and its warnings."""

MOST_WARNINGS = 50


def keep_value(value: float | None) -> None:
    """Within a job: keep the value for the process that launched it."""
    if value is not None:
        _keep({"value": float(value)})


def keep_failed(failed: Mapping[str, str]) -> None:
    """Within a job: keep case → message, for the process that launched it."""
    if failed:
        _keep({"failed": dict(failed)})


class Warned(logging.Handler):
    """Collects the warnings of segflow in this process while a block runs.

    Attributes:
        messages: The first `MOST_WARNINGS` of them, each once.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def __enter__(self) -> Warned:
        logging.getLogger("segflow").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("segflow").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging. Errors are told by the job itself."""
        message = record.getMessage()
        if record.levelno == logging.WARNING and message not in self.messages and len(self.messages) < MOST_WARNINGS:
            self.messages.append(message)


@contextmanager
def keep_warnings() -> Iterator[None]:
    """Within a job: keep the warnings of the block, for the process that launched it."""
    with Warned() as warned:
        try:
            yield
        finally:
            if warned.messages:
                _keep({"warnings": warned.messages})


_content: dict[str, Any] = {}


def _keep(content: Mapping[str, Any]) -> None:
    if file := os.environ.get(VALUE_FILE):
        _content.update(content)
        write_json(Path(file), _content)


def kept(file: Path) -> tuple[float | None, dict[str, str], tuple[str, ...]]:
    """What the job kept: its value, the cases that failed, and its warnings."""
    if not file.is_file():
        return None, {}, ()
    try:
        content = read_json(file)
        failed = {str(case): str(message) for case, message in content.get("failed", {}).items()}
        value = float(content["value"]) if "value" in content else None
        return value, failed, tuple(map(str, content.get("warnings", ())))
    except UNUSABLE:
        return None, {}, ()
