"""Plain values as a record of settings: unknown keys and wrong types are told with the setting's meaning."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from segflow.apps._kinds import allows_none, entry_of, holds_parts, in_words, options_of, section_of, typed_fields
from segflow.apps._parts import TARGET, Part, SettingError, check_part
from segflow.apps._settings import REST, defaults_of, sections_of, settings_of
from segflow.core.errors import SegflowError
from segflow.core.wording import some

MOST_NAMED = 16
"""Settings that a message lists for an unknown one that resembles none."""

Record = TypeVar("Record")


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
    _refuse_nan(values, prefix.removesuffix("."))
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
            expected=f"its parts one by one, as {prefix}{next(iter(typed_fields(record)))[0].name}=VALUE",
        )  # fmt: skip
    known = {entry.name: kind for entry, kind in typed_fields(record)}
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
            fix = nearest(where, [*everything, *(prefix + key for key in sections_of(record))], beside)
            expected = None if fix else f"one of {some(beside, MOST_NAMED)}"
            raise SettingError(f"there is no setting '{where}'", expected=expected, fix=fix or None)
    if rest is not None and TARGET in known:
        target = values.get(TARGET, defaults_of(record)[TARGET])
        check_part(prefix[:-1], {TARGET: target, **others})
    return result if rest is None else {**result, rest: others}


def _refuse_nan(value: Any, where: str) -> None:
    """NaN passes every comparison with a limit, and turns all weights into NaN."""
    if isinstance(value, float) and math.isnan(value):
        raise SettingError(f"setting '{where}' is not a number", found="nan", expected="a number")
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        _refuse_nan(inner, f"{where}.{key}" if where else str(key))


def _fitted(kind: Any, value: Any, where: str) -> Any:
    section = section_of(kind)
    if section is not None:
        return value if value is None and allows_none(kind) else _prepared(section, value, f"{where}.")
    if isinstance(value, Mapping):
        return _fitted_mapping(kind, value, where)
    if isinstance(value, str):
        return _fitted_text(kind, value)
    if isinstance(value, list) and list[str] in options_of(kind):
        return [inner if isinstance(inner, str | bool) else str(inner) for inner in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _fitted_number(options_of(kind), value)
    return value


def _fitted_mapping(kind: Any, value: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    entry = entry_of(kind)
    if TARGET in value and holds_parts(kind):
        check_part(where, value)
    elif entry is not None:
        return {str(key): _fitted_entry(entry, inner, f"{where}.{key}") for key, inner in value.items()}
    return value


def _fitted_text(kind: Any, value: str) -> Any:
    """One text of a list, which need not be written as a list; an empty path is none."""
    options = options_of(kind)
    if {list[str], list[Path]} & options and str not in options:
        return [value] if value else None
    return None if value == "" and Path in options and allows_none(kind) else value


def _fitted_number(options: set[Any], value: int | float) -> int | float | str:
    """A whole number where one is wanted, as ``1e3`` is; a text where only a text is."""
    if isinstance(value, float) and int in options and float not in options and value.is_integer():
        return int(value)
    return str(value) if str in options and not {int, float} & options else value


def _fitted_entry(kind: Any, value: Any, where: str) -> Any:
    """One entry of a mapping, whose key msgspec would not name."""
    fitted = _fitted(kind, value, where)
    try:
        msgspec.convert(fitted, kind, dec_hook=_decoded)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, SegflowError):
            raise error.__cause__ from error
        if (section := section_of(kind)) is not None:
            raise _explained(error, section, fitted, f"{where}.") from error
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
        beside = [s for s in settings_of(record, prefix) if s.key.startswith(key)]
        told = [s for s in beside if _stands(s.key, cause.problem)] or [s for s in beside if _names(str(cause), s.key)]
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
    return _stands(key.rpartition(".")[2], text)


def _stands(word: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text) is not None


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
