"""Reading by libraries that a file may crash or hang: header checked first, then in a process apart."""

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
"""The slowest disk and packing that are borne."""
START_BYTES = 1 << 30
COPIES = 4
"""Libraries hold the voxels as read, unpacked and converted."""
TALKATIVE = ("tifffile", "PIL")
"""They log what they meet in a damaged file, tens of thousands of lines where it is made so."""


def reads_apart(check: Callable[[Path], int]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function or method, whose last argument is a file, read it in a process apart.

    Args:
        check: Looks at the file's header, here, before the library does; returns the bytes of its voxels, which time
            and memory are granted by.

    Returns:
        A decorator. What the function raises that is no `SegflowError` becomes one with the file's name.
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
    """Whether another process can import an argument's class: not a reader that was made in the caller's script."""
    kind = type(argument)
    return kind.__module__ != "__main__" and "<locals>" not in kind.__qualname__


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...], file: Path) -> Any:
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        return function(*arguments)
    except (SegflowError, MemoryError):
        raise
    except Exception as error:  # a library lets out whatever a damaged file provokes
        raise unreadable(file, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """The last line of a report, which is the one that says something in ITK's; its type where that is no words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, (OSError, RuntimeError, ValueError, SyntaxError)) and lines:
        return lines[-1]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"
