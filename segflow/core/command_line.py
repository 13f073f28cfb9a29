"""A command line that a person can paste, quoted for the shell and for the grammar of settings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

_PLAIN = re.compile(r"[A-Za-z0-9_./@%+-]+( [A-Za-z0-9_./@%+-]+)*")
_NO_TEXT = re.compile(r"[+-]?[\d.][\d._]*(e[+-]?\d+)?|[+-]?(inf|nan)|true|false|null", re.IGNORECASE)


def command_line(command: str, *words: str, **settings: object) -> str:
    """``segflow COMMAND …``, which gives each setting exactly this value.

    Args:
        command: Name of the command.
        words: Flags and sweeps such as ``-m`` and ``fold=0,1``, taken as they are.
        settings: Texts, paths, numbers, truth values, None, or sequences of them; ``inference__folds`` is
            ``inference.folds``.
    """
    values = [f"{key.replace('__', '.')}={setting_text(value)}" for key, value in settings.items()]
    return shlex.join(["segflow", command, *words, *values])


def setting_text(value: object) -> str:
    """A value behind ``KEY=``, in quotes where it would be read as something else."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Path):
        text = str(value)  # at the start ~ means the home folder, and ??? means no value
        return setting_text(str(value.absolute()) if text.startswith(("~", "???")) else text)
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and not _NO_TEXT.fullmatch(value) else quoted(value, '"')
    if isinstance(value, Sequence):
        return f"[{','.join(setting_text(item) for item in value)}]"
    raise TypeError(f"{type(value).__name__} cannot be written as a setting")


def quoted(value: str, mark: str = "'") -> str:
    """A text in quotes, as the grammar of settings wants it.

    Backslashes are doubled where a quote follows, at the end, and before ``${``, which would name another setting.

    Args:
        value: The text.
        mark: The quote: ``'`` or ``"``.
    """
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    inner = re.sub(rf"(\\*){mark}", lambda match: f"{match[1] * 2}\\{mark}", literal)
    return mark + re.sub(r"(\\+)\Z", r"\1\1", inner) + mark
