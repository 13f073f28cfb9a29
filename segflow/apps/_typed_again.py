"""The settings of a command as arguments that give another process the same settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segflow.apps import _invocation
from segflow.apps._commands import record_of
from segflow.apps._kinds import holds_parts, typed_fields
from segflow.apps._own_parts import typed
from segflow.apps._settings import plain
from segflow.core.command_line import setting_text

_KEY = re.compile(r"[\w./:-]+")


def as_arguments(command: str, settings: Any, **changes: object) -> list[str]:
    """The settings of a command as arguments after its name.

    Args:
        command: Name of the command.
        settings: Its record, or one that has all of its settings, such as that of ``segflow run``.
        changes: Settings with other values; ``preprocessing__part`` is ``preprocessing.part``.
    """
    record = record_of(command)
    values = plain(settings, record)
    parts = [entry.name for entry, kind in typed_fields(record) if holds_parts(kind)]
    chosen = [word for word in typed(*parts) if not word.startswith("-")]
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    leaves = {key: value for key, value in _leaves(values, parts) if key not in changed}
    written = [f"{key}={_text(value)}" for key, value in {**leaves, **changed}.items()]
    return [*_invocation.config_flags(), *chosen, *written]


def _leaves(values: Mapping[str, Any], parts: Sequence[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key → value of all settings. Of parts, which options give, those that have a value."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        is_part = key.split(".")[0] in parts
        if isinstance(value, Mapping):
            yield from _leaves(value, parts, f"{key}.")
        elif not (is_part and (value is None or not _KEY.fullmatch(key))):
            yield key, value


def _text(value: Any) -> str:
    """A value behind ``KEY=``, which may be a list of mappings too."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return setting_text(value)
