"""Jobs for worker processes, and their outcomes."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.core.system_errors import system_error

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One call to make.

    Attributes:
        name: Name in messages, such as the case's id.
        arguments: Positional arguments. They travel to another process, so keep them small.
        memory_bytes: Memory that it needs at its peak, beside Python and libraries, for the memory limit; 0 if it is
            not known, or too little to count.
        sizes: What the need of memory follows from, such as ``512 × 512 × 300 voxels``, for a refusal.
    """

    name: str
    arguments: tuple[Any, ...]
    memory_bytes: int = 0
    sizes: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        name: The job's name.
        value: Value of the function; None after an error.
        error: The error in one line, for the user; None after success.
    """

    name: str
    value: Any
    error: str | None = None


def run_job(name: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Outcome:
    """Make one call. An exception becomes the error of its outcome.

    Raises:
        NoSpaceError: A disk is full or read-only. The error names the job.
        MemoryError: It asked for more memory than there is.
    """
    try:
        return Outcome(name, function(*arguments))
    except (NoSpaceError, MemoryError):
        raise
    except SegflowError as error:
        return Outcome(name, None, str(error))
    except OSError as error:
        _log.debug("'%s' failed", name, exc_info=True)
        refused = system_error(error)
        if isinstance(refused, NoSpaceError):
            raise refused.of_case(name) from error
        return Outcome(name, None, f"'{name}': {refused}")
    except Exception as error:
        _log.debug("'%s' failed", name, exc_info=True)
        return Outcome(name, None, f"'{name}': {describe(error)}")


def describe(error: Exception) -> str:
    """Type, message and place of an unexpected exception."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"
