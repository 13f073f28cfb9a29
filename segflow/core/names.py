"""Names that become parts of paths. They are checked wherever a file, a table or a model gives one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, NewType

from segflow.core.errors import SegflowError

SafeName = NewType("SafeName", str)
"""A single component of a path, without separator and not hidden. See `safe_name`."""

FileEnding = NewType("FileEnding", str)
"""The ending of files, such as ``.nii.gz``. See `safe_ending`."""

LONGEST_NAME = 224
"""Bytes in UTF-8. File systems allow 255, which must also hold the ending and the mark of an unfinished file."""

SEPARATORS = "/\\"
_SEPARATOR = re.compile(f"[{re.escape(SEPARATORS)}]")
_UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_REFUSED_BY_WINDOWS = re.compile(r'[<>:"|?*]|[. ]$|^(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\.|$)', re.IGNORECASE)
_ENDING = re.compile(r"(\.[A-Za-z0-9_+-]+)+")
_LONGEST_ENDING = 40
MOST_DIGITS = 18


def safe_name(value: Any, what: str) -> SafeName:
    """Check a name that a path will be made of.

    Spaces, dots within, hyphens and letters of every script are allowed.

    Args:
        value: The name, as a file gives it.
        what: Meaning of the name, for the message, such as ``case id`` or ``key 'plans_name'``.

    Raises:
        SegflowError: It is not a text, is empty or too long, begins with a dot, or holds a separator or a character
            that cannot be shown. On Windows also one that Windows refuses, such as ``nul`` or ``a:b``.
    """
    reason = why_unsafe(value)
    if reason is not None:
        raise SegflowError(
            f"{what} cannot be part of a path: it {reason}",
            found=shortened(value),
            expected="a plain name, without / and \\ and not beginning with a dot",
            fix="It names files and folders; rename it where it comes from.",
        )
    return SafeName(value)


def safe_names(values: Iterable[Any], what: str) -> tuple[SafeName, ...]:
    """Check several; see `safe_name`."""
    return tuple(safe_name(value, what) for value in values)


def why_unsafe(value: Any, *, on_windows: bool = os.name == "nt") -> str | None:
    """The reason why a value is not a plain name, or None. See `safe_name`.

    Args:
        value: The name.
        on_windows: Whether it is for a system that allows fewer names.
    """
    if not isinstance(value, str):
        return "is not a text"
    if not value.strip():
        return "is empty"
    if _SEPARATOR.search(value):
        return "holds a separator of paths"
    if value.startswith("."):
        return "begins with a dot"
    if _UNSHOWN.search(value):
        return "holds a character that cannot be shown"
    if len(value.encode()) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} bytes"
    if on_windows and _REFUSED_BY_WINDOWS.search(value):
        return "is none that Windows allows"
    return None


def safe_ending(value: Any, key: str = "file_ending") -> FileEnding:
    """Check the ending of a dataset's files.

    Args:
        value: The ending.
        key: Its key in dataset.json, for messages.

    Raises:
        SegflowError: It does not begin with a dot, or holds more than letters, digits, dots and ``_ + -``.
    """
    if not isinstance(value, str) or not value.startswith("."):
        raise SegflowError(f"'{key}' must start with a dot", found=shortened(value))
    if len(value) > _LONGEST_ENDING or not _ENDING.fullmatch(value):
        raise SegflowError(
            f"'{key}' cannot end a file's name", found=shortened(value), expected="such as .nii.gz, .nrrd or .png"
        )
    return FileEnding(value)


def check_fold(value: Any) -> None:
    """Check the fold of a run: a number from 0, or a name such as ``all``.

    Raises:
        SegflowError: It is neither.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        safe_name(value, "the fold")
    elif not 0 <= value < 10**6:
        raise SegflowError("there is no such fold", found=shortened(value), expected="a number from 0, or all")


def is_number(text: str) -> bool:
    """Whether a text consists of the digits 0 to 9, and of no more than 64 bits hold.

    Python's own test accepts other characters, and ``int`` refuses thousands of digits.
    """
    return text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS


def shortened(value: Any, limit: int = 80) -> str:
    """An untrusted value as a short text of printable characters."""
    text = repr(value if not isinstance(value, str) else value[: limit + 1])
    return text if len(text) <= limit else f"{text[:limit]}…"
