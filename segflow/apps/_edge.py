"""The boundary to Hydra: it composes a command's settings, and the job gets them as a record.

``_command_line.py`` prepares the arguments for Hydra, ``_composition.py`` checks the composition, and ``_messages.py``
words the errors.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from segflow.apps import _command_line, _commands, _composition, _first_words, _messages, _shipped
from segflow.apps._job_results import keep_value, keep_warnings
from segflow.apps._launch_sweep import Swept
from segflow.apps._own_parts import use_own_reader
from segflow.core.errors import NoSpaceError, SegflowError

FULL_ERROR = "HYDRA_FULL_ERROR"

logger = logging.getLogger(__name__)


def compose(command: str, *arguments: str) -> Any:
    """The settings of a command, composed from arguments as typed after it.

    Args:
        command: Name of the command, such as ``train``.
        arguments: Arguments such as ``dataset=42``, ``optimizer=adamw``.

    Returns:
        The command's record, such as `segflow.apps.train.Train`, for ``segflow.apps.train.run``.

    Raises:
        SegflowError: A setting does not exist, or has a value that does not fit it.
    """
    folders = [_shipped.config_dir(), *_composition.user_folders(arguments)]
    typed = _command_line.rewrite(command, arguments, folders)
    return _composition.composed(command, typed, folders)


def ignore_advice_of_lightning() -> None:
    """Silence Lightning's use of torch, and its advice on reduced values and on ``srun``, which is already followed."""
    advice = (".*LeafSpec.*", ".*sync_dist=True.*", ".*callbacks used to create the checkpoint.*")
    for message in (*advice, ".*`srun` command is available on your system but is not used.*"):
        warnings.filterwarnings("ignore", message=message)


def start(command: str, arguments: list[str]) -> None:
    """Compose the configuration of a command and run its job, ``segflow.apps.<command>.run``.

    Args:
        command: Name of the command; ``conf/<command>.yaml`` is its table of contents.
        arguments: Arguments after the command, as typed.

    Raises:
        SystemExit: Code 2 for a command line that does not compose, 1 for a failed job, with one message on stderr.
            ``HYDRA_FULL_ERROR=1`` shows the traceback.
    """
    show_traceback = os.environ.get(FULL_ERROR, "") not in ("", "0")
    if os.getcwd() not in sys.path:  # a console script does not find user code in the current folder otherwise
        sys.path.insert(0, os.getcwd())
    failures: list[tuple[str, Exception]] = []
    folders: list[Path] = []
    try:
        folders += [_shipped.config_dir(), *_composition.user_folders(arguments)]
        _first_words.check(command, arguments, folders)
        typed = _command_line.rewrite(command, arguments, folders)
        sys.argv = [sys.argv[0], *_composition.checked(command, typed, folders)]
        Swept.command = command
        Swept.users_errors = lambda: _users_errors(show_traceback)
        Swept.tell = lambda name, cause: failures.append((f" {name}", SegflowError(cause)))
        os.environ[FULL_ERROR] = "1"  # Hydra then raises instead of printing and exiting
        hydra.main(**_composition.BEHAVIOUR, config_path=str(folders[0]), config_name=command)(
            _job(command, failures, show_traceback)
        )()
    except BrokenPipeError:
        raise SystemExit(130) from None
    except _SweepEndsError:
        pass
    except Exception as error:
        failures.append(("", error))
    for job, failure in failures:
        if show_traceback:
            raise failure
        message, code = _messages.explain(failure, folders, command)
        sys.stderr.write(f"segflow {command}{job}: {message}\n")
        logger.debug("traceback", exc_info=failure)
    if failures:
        raise SystemExit(code)


class _SweepEndsError(BaseException):
    """Passes through Hydra if the other jobs of a sweep would fail too, as on a full disk."""


def _job(
    command: str, failures: list[tuple[str, Exception]], show_traceback: bool
) -> Callable[[DictConfig], float | None]:
    def run(config: DictConfig) -> float | None:
        try:
            ignore_advice_of_lightning()
            settings = _composition.record(command, config)
            if settings.verbose:
                logging.getLogger("segflow").setLevel(logging.DEBUG)
            use_own_reader(settings.reader)
            with keep_warnings():
                value = _commands.job_of(command)(settings)
            keep_value(value)
            return value
        except NoSpaceError as error:
            failures.append(("", error))
            raise _SweepEndsError from error
        except Exception as error:
            job = HydraConfig.get().job
            sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            if sweep and not HydraConfig.get().launcher._target_.endswith("BasicLauncher"):
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
