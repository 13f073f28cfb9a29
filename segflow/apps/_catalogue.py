"""Groups, options and settings of commands, read within milliseconds.

Completion, hints and help use it, so that they do not wait for torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segflow.apps import _shipped
from segflow.apps._commands import record_of
from segflow.apps._settings import defaults_of, settings_of

NAME_KEYS = ("run_name", "previous_run_name", "plans", "planner.plans_name")
"""Settings that are names of folders and files. A comma between two names means a sweep without ``-m``."""

NO_OPTION = ("null", "none", None)


def choices(command: str, folders: Sequence[Path]) -> dict[str, tuple[str, str | None]]:
    """Group, with its ``@package`` if it has one → its key, and the default option.

    Args:
        command: Name of the command.
        folders: Folders of configuration, the shipped one first.
    """
    found: dict[str, tuple[str, str | None]] = {}
    for name, option in _entries(folders[0] / f"{command}.yaml"):
        if (folders[0] / f"{name}.yaml").is_file():
            found.update(choices(name, folders))
            continue
        group, _, package = name.removeprefix("override ").removeprefix("optional ").lstrip("/").partition("@")
        if (folders[0] / group).is_dir():
            key = f"{group}@{package}" if package else group
            found[key] = (package or group, None if option in NO_OPTION else str(option))
    return found


def values(command: str, folders: Sequence[Path], chosen: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Dotted key → default, for all settings of a command.

    Args:
        command: Name of the command.
        folders: Folders of configuration, the shipped one first.
        chosen: Group → option, for options other than the default.
    """
    found: dict[str, Any] = dict(_dotted(defaults_of(record_of(command))))
    for file in _shipped.files_of(command, folders[0]):
        found.update(_dotted(_shipped.content(file)))
    for group, (key, default) in choices(command, folders).items():
        option = (chosen or {}).get(group, default)
        content = option_content(group.partition("@")[0], option, folders) if option else {}
        found.update({f"{key}.{name}": value for name, value in _dotted(content)})
    return found


def section(command: str) -> str:
    """The section whose settings may be given without its name; empty if a command has none."""
    return record_of(command).SECTION


def texts(command: str) -> frozenset[str]:
    """Settings whose values are names and paths, or lists of them."""
    return frozenset(setting.key for setting in settings_of(record_of(command)) if setting.is_text)


def taken_as_typed(command: str) -> frozenset[str]:
    """Settings whose value is a single text with any characters. In a name a comma separates two, see `NAME_KEYS`."""
    lists = {setting.key for setting in settings_of(record_of(command)) if setting.is_list}
    return (texts(command) - lists - {*NAME_KEYS}) | {"input"}  # usually a folder, rarely a list


def paths(command: str) -> frozenset[str]:
    """Settings whose values are files and folders."""
    return frozenset(setting.key for setting in settings_of(record_of(command)) if setting.is_path)


def option_content(group: str, option: str, folders: Sequence[Path]) -> dict[str, Any]:
    """Settings of an option, with those that it builds on. Empty if it does not exist or is a preset."""
    file = next((f for folder in reversed(folders) if (f := folder / group / f"{option}.yaml").is_file()), None)
    if file is None or is_preset(file):
        return {}
    content: dict[str, Any] = {}
    for name, _ in _entries(file):
        if name not in ("_self_", option) and not name.startswith(("override ", "/")):
            content = _merged(content, option_content(group, name, folders))
    return _merged(content, _shipped.content(file))


def is_preset(file: Path) -> bool:
    """Whether the keys of an option's file are top-level keys, not keys of its group."""
    try:
        return file.read_text(encoding="utf-8").startswith("# @package _global_")
    except (OSError, UnicodeDecodeError):
        return False


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """Entries of a file's defaults list, with their options."""
    for entry in _shipped.content(file, defaults=True).get("defaults") or ():
        if isinstance(entry, Mapping):
            yield from ((str(name), option) for name, option in entry.items())
        else:
            yield str(entry), None


def _dotted(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if str(name) in ("_target_", "_partial_", "_args_", "_recursive_", "_convert_"):
            continue
        key = f"{prefix}{name}"
        yield key, value
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{key}.")


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for name, value in second.items():
        before = merged.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(before, value) if both else value  # type: ignore[arg-type]
    return merged
