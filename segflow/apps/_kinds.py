"""Types of fields: what they hold, and how a person says it."""

from __future__ import annotations

import types
import typing
from dataclasses import Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from segflow.apps._parts import Part


@cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def typed_fields(record: type) -> list[tuple[Field[Any], Any]]:
    """The fields of a dataclass, each with its type."""
    return [(entry, _hints(record)[entry.name]) for entry in fields(record)]


def section_of(kind: Any) -> type | None:
    """The dataclass of a field, or None."""
    for option in (kind, *typing.get_args(kind)) if is_union(kind) else (kind,):
        if isinstance(option, type) and is_dataclass(option):
            return option
    return None


def entry_of(kind: Any) -> Any:
    """Type of a mapping's values; None if the field is not a mapping."""
    inside = next((a for a in (kind, *typing.get_args(kind)) if typing.get_origin(a) is dict), None)
    return typing.get_args(inside)[1] if inside else None


def is_union(kind: Any) -> bool:
    """Whether a type has alternatives."""
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def allows_none(kind: Any) -> bool:
    """Whether a value may be None."""
    return type(None) in typing.get_args(kind)


def holds_parts(kind: Any) -> bool:
    """Whether a value is a part, or holds some."""
    return kind is Part or any(holds_parts(inner) for inner in typing.get_args(kind))


def options_of(kind: Any) -> set[Any]:
    """The types that a value may have beside None."""
    return set(typing.get_args(kind) if is_union(kind) else (kind,)) - {type(None)}


_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path",
    type(None): "null", Part: "a part: {_target_: …}", Any: "any value",
}  # fmt: skip


def in_words(kind: Any) -> str:
    """A type in words."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if is_union(kind):
        return " or ".join(in_words(option) for option in inner)
    if origin is typing.Literal:
        return " | ".join(map(str, inner))
    if origin is tuple:
        return f"a list of {len(inner)} values"
    if origin is dict:
        return f"a mapping of names to {_plural(inner[1])}"
    return f"a list of {_plural(inner[0])}" if inner else "values"


def _plural(kind: Any) -> str:
    names = {int: "whole numbers", float: "numbers", str: "texts", Path: "paths", Part: "parts"}
    return names.get(kind, "values")
