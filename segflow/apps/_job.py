"""A command's job in this process, once its settings are there."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from segflow.apps import _commands
from segflow.apps._job_results import keep_value, keep_warnings
from segflow.apps._own_parts import use_own_reader
from segflow.execution.screen import LogHandler


def run(command: str, settings: Any) -> float | None:
    """Run a command with its settings. The result is the value that a sweep optimises."""
    ignore_advice_of_lightning()
    if settings.verbose:
        logging.getLogger("segflow").setLevel(logging.DEBUG)
    use_own_reader(settings.reader)
    with keep_warnings():
        value = _commands.job_of(command)(settings)
    keep_value(value)
    return value


def ignore_advice_of_lightning() -> None:
    """Silence Lightning's use of torch, and its advice on reduced values and on ``srun``, which is already followed."""
    advice = (".*LeafSpec.*", ".*sync_dist=True.*", ".*callbacks used to create the checkpoint.*")
    for message in (*advice, ".*`srun` command is available on your system but is not used.*"):
        warnings.filterwarnings("ignore", message=message)


def log_to_stderr() -> None:
    """Log as ``conf/_shared.yaml`` has Hydra log: messages alone, from INFO on."""
    logging.basicConfig(handlers=[LogHandler()], level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("numexpr.utils").setLevel(logging.WARNING)
