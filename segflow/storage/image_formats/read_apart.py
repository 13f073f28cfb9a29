"""Reading with libraries that a file may crash or hang: the header is checked first, then a separate process reads."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from segflow.core.errors import SegflowError
from segflow.execution.apart import Limits, call_apart, is_within_call
from segflow.storage.image_formats.contract import unreadable
from segflow.storage.regular_files import check_regular

P = ParamSpec("P")
R = TypeVar("R")

START_SECONDS = 60.0
BYTES_PER_SECOND = 5e6
"""Bytes per second of the slowest disk and packing that are waited for."""
START_BYTES = 1 << 30
COPIES = 4
"""Times the voxels that a library may hold: as read, unpacked and converted."""
TALKATIVE = ("tifffile", "PIL")
"""Libraries that log what they find in a damaged file, which may be made to cause tens of thousands of lines."""


def reads_apart(check: Callable[[Path], int]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function or method, whose last argument is a file, read it in a separate process.

    Args:
        check: Checks the file's header in this process, before the library opens it. Returns the bytes of its voxels,
            which set the limits of time and memory.

    Returns:
        A decorator. Other errors of the function than `SegflowError` become one that names the file.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def apart(*arguments: P.args, **options: P.kwargs) -> R:
            if is_within_call() or not all(map(_can_travel, arguments)):
                return function(*arguments, **options)
            file = arguments[-1]
            if not isinstance(file, Path) or options:
                raise TypeError("the last positional argument is the file")
            voxel_bytes = check(file)
            seconds = START_SECONDS + (check_regular(file) + voxel_bytes) / BYTES_PER_SECOND
            limits = Limits(seconds, START_BYTES + COPIES * max(voxel_bytes, check_regular(file)))
            result: R = call_apart(_attempt, (apart, arguments, file), subject=str(file), limits=limits)
            return result

        return apart

    return decorate


def _can_travel(argument: object) -> bool:
    """Whether another process can import an argument's class. It cannot if the caller's script defines the class."""
    kind = type(argument)
    return kind.__module__ != "__main__" and "<locals>" not in kind.__qualname__


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...], file: Path) -> Any:
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        return function(*arguments)
    except (SegflowError, MemoryError):
        raise
    except Exception as error:  # a library passes on any error that a damaged file causes
        raise unreadable(file, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """The last line of an error, which in ITK's is the one with the reason; with its type if that line has no words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, (OSError, RuntimeError, ValueError, SyntaxError)) and lines:
        return lines[-1]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"
