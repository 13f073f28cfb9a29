"""Settings of commands: their keys, types, defaults and meanings, and reading of plain values as a record.

The settings of a command are the fields of its record, such as ``Train`` in ``train.py``. A field that is a dataclass
is a section. A field's annotation is its type, its default is the only default, and its line in the class's
``Attributes:`` is its meaning.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from segflow.apps._docstrings import described
from segflow.apps._parts import TARGET, Part, SettingError, check_part
from segflow.core.errors import SegflowError

Record = TypeVar("Record")

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
        is_text: Whether its value is a name or a path, or a list of them, and nothing else.
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
    for entry, kind in _typed_fields(record):
        key = f"{prefix}{entry.name}"
        section = _section(kind)
        if section is not None:
            found += _settings_below(section, f"{key}.")
        elif not entry.metadata.get(REST):
            meaning = meanings(record).get(entry.name, "")
            options = _options(kind)
            found.append(
                Setting(
                    key,
                    in_words(kind),
                    _plain_default(entry),
                    meaning,
                    is_text=options <= {str, Path, list[str], list[Path]},
                    is_path=options <= {Path, list[Path]},
                    is_list=bool(options & {list[str], list[Path]}),
                    is_open=any(typing.get_origin(option) is dict for option in options),
                )
            )
    return tuple(found)


def sections_of(record: type, prefix: str = "") -> Iterator[str]:
    """Keys of the sections and parts of a record, which have settings below them."""
    for entry, kind in _typed_fields(record):
        section = _section(kind)
        if section is not None or _holds_parts(kind):
            yield f"{prefix}{entry.name}"
        if section is not None:
            yield from sections_of(section, f"{prefix}{entry.name}.")


def meanings_of_sections(record: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key → meaning of every section of a record, and of its parts."""
    for entry, kind in _typed_fields(record):
        section = _section(kind)
        if section is not None or _holds_parts(kind):
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
    for entry, kind in _typed_fields(record):
        section = _section(kind)
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


def read(record: type[Record], values: Mapping[str, Any], prefix: str = "") -> Record:
    """Check plain values against a record, and build it.

    Args:
        record: The class.
        values: Values as read from YAML.
        prefix: Their place in the settings of a command, such as ``training.``.

    Raises:
        SettingError: A key is unknown, or a value has the wrong type.
        SegflowError: A value is out of range.
    """
    prepared = _prepared(record, values, prefix)
    try:
        return msgspec.convert(prepared, record, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        raise _explained(error, record, prepared, prefix) from error


def _decoded(kind: type, value: Any) -> Any:
    if kind is Path:
        if not isinstance(value, str):
            raise TypeError("a path")
        return Path(value).expanduser()
    if kind is Part:
        if not isinstance(value, Mapping) or not isinstance(value.get(TARGET), str):
            raise TypeError("a part")
        return Part(dict(value))
    raise NotImplementedError(kind)


def _prepared(record: type, values: Any, prefix: str) -> Any:
    """The same values, with numbers in the types of their fields. Unknown keys are refused."""
    if not isinstance(values, Mapping):
        raise SettingError(
            f"setting '{prefix[:-1]}' cannot be set as a whole", found=_shown(values),
            expected=f"its parts one by one, as {prefix}{next(iter(_typed_fields(record)))[0].name}=VALUE",
        )  # fmt: skip
    known = dict(_named(record))
    rest = next((entry.name for entry in fields(record) if entry.metadata.get(REST)), None)
    result: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{prefix}{key}"
        if key in known and key != rest:
            result[str(key)] = _fitted(known[key], value, where)
        elif rest is not None:
            others[str(key)] = value
        else:
            beside = [f"{prefix}{name}" for name in known]
            everything = [setting.key for setting in settings_of(record, prefix)]
            fix = nearest(where, [*everything, *sections_of(record, prefix)], beside)
            raise SettingError(f"there is no setting '{where}'", fix=fix or None)
    if rest is not None and TARGET in known:
        target = values.get(TARGET, defaults_of(record)[TARGET])
        check_part(prefix[:-1], {TARGET: target, **others})
    return result if rest is None else {**result, rest: others}


def _fitted(kind: Any, value: Any, where: str) -> Any:
    section = _section(kind)
    if section is not None:
        return value if value is None and _allows_none(kind) else _prepared(section, value, f"{where}.")
    if isinstance(value, Mapping):
        if TARGET in value and _holds_parts(kind):
            check_part(where, value)
        elif (entry := _entry_of(kind)) is not None:
            return {str(key): _fitted_entry(entry, inner, f"{where}.{key}") for key, inner in value.items()}
        return value
    options = typing.get_args(kind) if _is_union(kind) else (kind,)
    if isinstance(value, str) and {list[str], list[Path]} & set(options) and str not in options:
        return [value] if value else None  # one, which need not be written as a list
    if isinstance(value, list) and list[str] in options:
        return [inner if isinstance(inner, str | bool) else str(inner) for inner in value]
    if value == "" and Path in options and _allows_none(kind):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, float) and int in options and float not in options and value.is_integer():
        return int(value)
    return str(value) if str in options and not {int, float} & set(options) else value


def _fitted_entry(kind: Any, value: Any, where: str) -> Any:
    """One entry of a mapping, whose key msgspec would not name."""
    fitted = _fitted(kind, value, where)
    try:
        msgspec.convert(fitted, kind, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, SegflowError):
            raise error.__cause__ from error
        raise SettingError(
            f"setting '{where}' has the wrong type", found=_shown(value), expected=in_words(kind)
        ) from error
    return fitted


def nearest(wanted: str, known: Sequence[str], beside: Sequence[str] = ()) -> str:
    """``Did you mean 'x'?``, or an empty text.

    Args:
        wanted: The key that came.
        known: All known keys. A key of the same name in another section is preferred to a similar one.
        beside: Known keys of the same section. A similar one among them is preferred to all others.
    """
    name = wanted.rpartition(".")[2]
    same = [key for key in known if key.endswith(f".{name}") or key == name]
    meant = get_close_matches(wanted, beside, n=1, cutoff=0.7) or same[:3]
    meant = meant or get_close_matches(wanted, [*beside, *known], n=1, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, meant))}?" if meant else ""


def _explained(error: msgspec.ValidationError, record: type, values: Any, prefix: str) -> SegflowError:
    text, _, path = str(error).partition(" - at `$")
    steps = re.findall(r"[\w-]+|\[[^\]]*\]", path.rstrip("`"))
    names = [step for step in steps if not step.startswith("[")]
    key = prefix + ".".join(names)
    setting = next((s for s in settings_of(record, prefix) if s.key == key or key.startswith(f"{s.key}.")), None)
    cause = error.__cause__
    if isinstance(cause, SegflowError):  # a check within the section
        told = [s for s in settings_of(record, prefix) if s.key.startswith(key) and _names(str(cause), s.key)]
        return _with_meaning(cause, told[0].meaning if told else "")
    found: Any = values
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else found
    if cause is not None and not isinstance(cause, TypeError):
        return SettingError(f"setting '{key}' is not right: {cause}", found=_shown(found))
    limit = re.match(r"Expected `array` of length (\d+)", text)
    expected = f"{limit[1]} values" if limit else (setting.type if setting else text.removeprefix("Expected "))
    problem = SettingError(f"setting '{key}' has the wrong type", found=_shown(found), expected=expected)
    return _with_meaning(problem, setting.meaning if setting else "")


def _with_meaning(error: SegflowError, meaning: str) -> SegflowError:
    if not meaning:
        return error
    first = re.split(r"(?<=[.;]) ", meaning)[0].rstrip(".;")
    fix = f"{error.fix} It means: {first}." if error.fix else f"It means: {first}."
    return type(error)(error.problem, case=error.case, found=error.found, expected=error.expected, fix=fix)


def _names(text: str, key: str) -> bool:
    return re.search(rf"\b{re.escape(key.rpartition('.')[2])}\b", text) is not None


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


@cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def _typed_fields(record: type) -> list[tuple[Field[Any], Any]]:
    return [(entry, _hints(record)[entry.name]) for entry in fields(record)]


def _named(record: type) -> list[tuple[str, Any]]:
    return [(entry.name, kind) for entry, kind in _typed_fields(record)]


def _section(kind: Any) -> type | None:
    """The dataclass of a field, or None."""
    for option in (kind, *typing.get_args(kind)) if _is_union(kind) else (kind,):
        if isinstance(option, type) and is_dataclass(option):
            return option
    return None


def _entry_of(kind: Any) -> Any:
    """Type of a mapping's values; None if the field is not a mapping."""
    inside = next((a for a in (kind, *typing.get_args(kind)) if typing.get_origin(a) is dict), None)
    return typing.get_args(inside)[1] if inside else None


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _allows_none(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _holds_parts(kind: Any) -> bool:
    return kind is Part or any(_holds_parts(inner) for inner in typing.get_args(kind))


def _options(kind: Any) -> set[Any]:
    """The types that a value may have beside None."""
    return set(typing.get_args(kind) if _is_union(kind) else (kind,)) - {type(None)}


def _plain_default(entry: Field[Any]) -> Any:
    if entry.default is not MISSING:
        return plain(entry.default)
    if entry.default_factory is not MISSING:
        return plain(entry.default_factory())
    return MISSING


_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path",
    type(None): "null", Part: "a part: {_target_: …}", Any: "any value",
}  # fmt: skip


def in_words(kind: Any) -> str:
    """A type in words."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if _is_union(kind):
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
