"""From a command line to a job: its settings are composed, and the job gets them as a record.

``_command_line.py`` prepares the arguments, and ``_messages.py`` words the errors. ``_plain.py`` composes what needs no
Hydra; ``_composition.py`` and ``_hydra_job.py`` compose and run everything else.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segflow.apps import _command_line, _first_words, _invocation, _job, _messages, _plain, _shipped, _user_files
from segflow.apps._first_words import CommandLineError
from segflow.apps._plain_values import NeedsHydraError

FULL_ERROR = "HYDRA_FULL_ERROR"

OF_TRAINING = ("hydra", "omegaconf", "pytorch_lightning", "tensorboard", "matplotlib")
"""Modules that the extra ``train`` installs."""
INSTALL = "pip install 'segflow[train]'"

logger = logging.getLogger(__name__)


def compose(command: str, *arguments: str) -> Any:
    """The settings of a command, composed by Hydra from arguments as typed after it.

    Args:
        command: Name of the command, such as ``train``.
        arguments: Arguments such as ``dataset=42``, ``optimizer=adamw``.

    Returns:
        The command's record, such as `segflow.apps.train.Train`, for ``segflow.apps.train.run``.

    Raises:
        SegflowError: A setting does not exist, or has a value that does not fit it.
    """
    from segflow.apps import _composition

    folders = [_shipped.config_dir(), *_user_files.user_folders(arguments)]
    typed = _command_line.rewrite(command, arguments, folders)
    return _composition.composed(command, typed, folders)


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
        if command not in _plain.COMMANDS:
            refuse_without_training(f"'segflow {command}'")
        folders += [_shipped.config_dir(), *_user_files.user_folders(arguments)]
        _first_words.check(command, arguments, folders)
        _run(command, arguments, folders, failures, show_traceback=show_traceback)
    except BrokenPipeError:
        raise SystemExit(130) from None
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


def _run(
    command: str,
    arguments: Sequence[str],
    folders: Sequence[Path],
    failures: list[tuple[str, Exception]],
    *,
    show_traceback: bool,
) -> None:
    """Run the job of a command line, or its jobs. Failures of single jobs of a sweep are appended."""
    typed = _command_line.rewrite(command, arguments, folders)
    if command in _plain.COMMANDS:
        try:
            settings = _plain.composed(command, typed, folders)
        except NeedsHydraError as beyond:
            word = _command_line.unmarked(str(beyond))
            refuse_without_training(f"'{word}'", "Quote special characters: \"KEY='a b'\". " if "=" in word else "")
        else:
            sys.argv = [sys.argv[0], *typed]
            _invocation.keep(_command_line.split(typed)[1])
            _job.log_to_stderr()
            _job.run(command, settings)
            return
    from segflow.apps import _hydra_job

    _hydra_job.run(command, typed, folders, failures, show_traceback=show_traceback)


def refuse_without_training(what: str, advice: str = "") -> None:
    """Refuse what needs the extra ``train``, if it is not installed.

    Args:
        what: It, for the message.
        advice: What else may help, as a sentence.

    Raises:
        CommandLineError: It is not installed. The error says how to install it.
    """
    missing = [module for module in OF_TRAINING if find_spec(module) is None]
    if missing:
        raise CommandLineError(f"{what} needs more than a light install", fix=f"{advice}Type: {INSTALL}")
