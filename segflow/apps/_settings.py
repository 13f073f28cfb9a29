"""Settings of commands: their keys, types, defaults and meanings. ``_read_settings.py`` builds records of them.

The settings of a command are the fields of its record, such as ``Train`` in ``train.py``. A field that is a dataclass
is a section. A field's annotation is its type, its default is the only default, and its line in the class's
``Attributes:`` is its meaning.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from segflow.apps._docstrings import described
from segflow.apps._kinds import holds_parts, in_words, options_of, section_of, typed_fields
from segflow.apps._parts import Part

REST = "rest"
"""Metadata of a field that takes all keys without a field of their own."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a command.

    Attributes:
        key: Dotted key, such as ``training.seed``.
        type: Type of the value, in words.
        default: Default as plain values; `MISSING` if an option of a group gives it.
        meaning: One or more sentences.
        is_text: Whether its value is a name or a path, or a list or mapping of them, and nothing else.
        is_path: Whether it is a path, or a list of them.
        is_list: Whether it is or may be a list of them.
        is_open: Whether the keys below it are the user's own.
    """

    key: str
    type: str
    default: Any
    meaning: str
    is_text: bool = False
    is_path: bool = False
    is_list: bool = False
    is_open: bool = False


def settings_of(record: type, prefix: str = "") -> tuple[Setting, ...]:
    """All settings of a record and its sections, in order."""
    return _settings_below(record, prefix)


@cache
def _settings_below(record: type, prefix: str) -> tuple[Setting, ...]:
    found: list[Setting] = []
    for entry, kind in typed_fields(record):
        key = f"{prefix}{entry.name}"
        section = section_of(kind)
        if section is not None:
            found += _settings_below(section, f"{key}.")
        elif not entry.metadata.get(REST):
            meaning = meanings(record).get(entry.name, "")
            options = options_of(kind)
            found.append(
                Setting(
                    key,
                    in_words(kind),
                    _plain_default(entry),
                    meaning,
                    is_text=options <= {str, Path, list[str], list[Path], dict[str, str]},
                    is_path=options <= {Path, list[Path]},
                    is_list=bool(options & {list[str], list[Path]}),
                    is_open=any(typing.get_origin(option) is dict for option in options),
                )
            )
    return tuple(found)


def sections_of(record: type) -> Iterator[str]:
    """Keys of the sections and parts of a record, which have settings below them."""
    return (key for key, _ in meanings_of_sections(record))


def meanings_of_sections(record: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key → meaning of every section of a record, and of its parts."""
    for entry, kind in typed_fields(record):
        section = section_of(kind)
        if section is not None or holds_parts(kind):
            yield f"{prefix}{entry.name}", meanings(record).get(entry.name, "")
        if section is not None:
            yield from meanings_of_sections(section, f"{prefix}{entry.name}.")


@cache
def meanings(record: type) -> Mapping[str, str]:
    """Name of a field → its text in the class's ``Attributes:``, as one line."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__):
        found |= described(base.__dict__.get("__doc__") or "")
    return found


def defaults_of(record: type) -> dict[str, Any]:
    """The defaults of a record as plain values. Fields without a default are left out."""
    found: dict[str, Any] = {}
    for entry, kind in typed_fields(record):
        section = section_of(kind)
        if entry.metadata.get(REST):
            continue
        default = _plain_default(entry)
        if default is not MISSING and not (section is not None and default is None):
            found[entry.name] = default
        elif section is not None:
            found[entry.name] = defaults_of(section)
    return found


def plain(value: Any, record: type | None = None) -> Any:
    """A record as plain values, the inverse of `read`.

    Args:
        value: A record, or any value within one.
        record: A base class of the value's class. Fields that it does not have are left out.
    """
    if is_dataclass(value) and not isinstance(value, type):
        result: dict[str, Any] = {}
        for entry in fields(record or type(value)):
            inner = plain(getattr(value, entry.name))
            result |= inner if entry.metadata.get(REST) else {entry.name: inner}
        return result
    if isinstance(value, Part):
        return plain(value.settings)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _plain_default(entry: Field[Any]) -> Any:
    if entry.default is not MISSING:
        return plain(entry.default)
    if entry.default_factory is not MISSING:
        return plain(entry.default_factory())
    return MISSING
