"""The boundary to Hydra: it composes a command's settings, and runs its job, or the jobs of a sweep."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from segflow.apps import _composition, _job, _launch_sweep
from segflow.apps._launch_contract import is_in_this_process
from segflow.apps._launch_sweep import Swept
from segflow.core.errors import NoSpaceError, SegflowError

FULL_ERROR = "HYDRA_FULL_ERROR"

Failures = list[tuple[str, Exception]]
"""Errors, each with the name of its job in a sweep."""


def run(
    command: str, arguments: Sequence[str], folders: Sequence[Path], failures: Failures, *, show_traceback: bool
) -> None:
    """Check a command line, and have Hydra run it.

    Args:
        command: Name of the command; ``conf/<command>.yaml`` is its table of contents.
        arguments: Arguments as `_command_line.rewrite` gives them.
        folders: Folders of configuration, the shipped one first.
        failures: Gets the errors of jobs.
        show_traceback: What processes that a job starts do with their own errors.
    """
    sys.argv = [sys.argv[0], *_composition.checked(command, arguments, folders)]
    Swept.command = command
    Swept.users_errors = lambda: _users_errors(show_traceback)
    Swept.tell = lambda name, cause: failures.append((f" {name}", SegflowError(cause)))
    os.environ[FULL_ERROR] = "1"  # Hydra then raises instead of printing and exiting
    job = _reporting(command, failures, show_traceback)
    with suppress(_SweepEndsError):
        hydra.main(**_composition.BEHAVIOUR, config_path=str(folders[0]), config_name=command)(job)()


class _SweepEndsError(BaseException):
    """Passes through Hydra if the other jobs of a sweep would fail too, as on a full disk."""


def _reporting(command: str, failures: Failures, show_traceback: bool) -> Callable[[DictConfig], float | None]:
    """The job for Hydra, whose errors are kept."""

    def run(config: DictConfig) -> float | None:
        try:
            return _launch_sweep.shown(lambda: _job.run(command, _composition.record(command, config)))
        except NoSpaceError as error:
            failures.append(("", error))
            raise _SweepEndsError from error
        except Exception as error:
            job = HydraConfig.get().job
            sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            if sweep and not is_in_this_process(HydraConfig.get().launcher._target_):
                raise  # in another process the launcher brings the error back
            name = job.override_dirname.replace("+", "")
            failures.append(
                (f" {name}" if sweep else "", error)
            )  # a sweep continues with its other jobs; errors are reported at the end
            return None

    def with_users_errors(config: DictConfig) -> float | None:
        with _users_errors(show_traceback):
            return run(config)

    return with_users_errors


@contextmanager
def _users_errors(show_traceback: bool) -> Iterator[None]:
    """Processes that a job starts follow the user's choice of tracebacks, not what Hydra needs in this process."""
    own = os.environ.pop(FULL_ERROR, None)
    if show_traceback:
        os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        os.environ[FULL_ERROR] = own or "1"
