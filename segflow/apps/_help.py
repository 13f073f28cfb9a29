"""``segflow COMMAND --help``: the groups and settings of a command, each with its default and a line of meaning."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING
from itertools import pairwise
from pathlib import Path
from typing import Any

from segflow.apps import _catalogue, _shipped
from segflow.apps._flags import WITH_VALUE
from segflow.apps._purposes import COMMANDS
from segflow.core.command_line import setting_text
from segflow.core.errors import SegflowError

NARROWEST = 60
WIDEST = 120
PRESETS = "Presets: options of several groups, and values in them, together."
"""Meaning of the group whose options have no key of their own."""

LAUNCHERS = "Engines for jobs as processes of their own: those of a sweep, of shards, and the folds of segflow run."
"""Meaning of the group of launchers."""

LONGEST_VALUE = 28
"""Largest number of characters of a default that are shown beside its key."""


def width_of_output() -> int:
    """Columns of the terminal or of ``COLUMNS``; 100 if the help goes to a file or a pipe."""
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((100, 24)).columns))


def show(command: str, arguments: Sequence[str], folders: Sequence[Path]) -> None:
    """Print the help of a command.

    Args:
        command: Name of the command.
        arguments: Arguments after the command, as typed. The help describes the options that they choose. The name of a
            group or a section asks for that one alone.
        folders: Folders of configuration, the shipped one first.
    """
    words = [word for word in arguments if not word.startswith("-")]
    for flag, value in pairwise(arguments):
        if flag in (*WITH_VALUE, *WITH_VALUE.values()) and value in words:
            words.remove(value)
    chosen = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
    asked = [word for word in words if "=" not in word]
    width = width_of_output()
    lines = section_help(command, asked[0], folders, chosen, width) if asked else None
    sys.stdout.write("\n".join(lines or command_help(command, folders, chosen, width)) + "\n")


def command_help(command: str, folders: Sequence[Path], chosen: dict[str, str], width: int) -> list[str]:
    """Lines of the complete help of a command."""
    entries = _catalogue.settings(command, folders, chosen)
    lines = [f"segflow {command}: {COMMANDS[command]}", "", *_examples(folders[0] / f"{command}.yaml")]
    groups = _catalogue.choices(command, folders)
    meanings = {"experiment": PRESETS, "hydra.launcher": LAUNCHERS, **{entry.key: entry.meaning for entry in entries}}
    shown = [group for group in groups if len(options_of(command, group, folders)) > 1]
    if shown:
        lines += ["", "Groups: choose with GROUP=OPTION", ""]
    for group in shown:
        key, default = groups[group]
        options = options_of(command, group, folders)
        lines += _group(options, group, chosen.get(group, default), meanings.get(key, ""), width)
    lines += ["", "Settings: change with KEY=VALUE"]
    lines += list(_settings_lines(entries, width))
    return [*lines, "", *wrapped(_ending(command, bool(shown)), width, 0)]


def section_help(command: str, name: str, folders: Sequence[Path], chosen: dict[str, str], width: int) -> list[str]:
    """Lines about one group or section: its options with their purposes, and its settings.

    Raises:
        SegflowError: The command has no group or section of that name.
    """
    entries = _catalogue.settings(command, folders, chosen)
    groups = _catalogue.choices(command, folders)
    key, _ = groups.get(name, (name, None))
    inside = [entry for entry in entries if entry.key == key or entry.key.startswith(f"{key}.")]
    if not inside and name not in groups:
        sections = [entry.key for entry in entries if "." not in entry.key]
        raise SegflowError(f"segflow {command} has no '{name}'", expected=", ".join([*groups, *sections]))
    lines = []
    if name in groups:
        _, default = groups[name]
        lines += [f"{name}: choose with {name}=OPTION", ""]
        for option in options_of(command, name, folders):
            purpose = plain_text(_shipped.purpose(name.partition("@")[0], option, folders))
            mark = " (default)" if option == default else ""
            lines += _row(f"{option}{mark}", purpose, width)
        lines.append("")
    return [*lines, "Settings: change with KEY=VALUE", *_settings_lines(inside, width)]


def first_sentence(meaning: str) -> str:
    """The first sentence of a meaning, without the marks of docstrings."""
    text = plain_text(meaning)
    match = re.match(r"(.+?)(?<!e\.g)(?<!i\.e)\.(?=\s)", text)
    first = match[1] if match else text
    return f"{first.rstrip('.;:')}." if first else ""


def plain_text(text: str) -> str:
    """A text without the quotes of reStructuredText, and with ``null`` for Python's None."""
    return re.sub(r"\bNone\b", "null", re.sub(r"``?([^`]+)``?", r"\1", text))


def value_text(value: Any) -> str:
    """A default as one would type it."""
    if value is MISSING:
        return "?"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{value_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(value_text, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"\$\{.*\}", value):
        return value
    if isinstance(value, str) and re.fullmatch(r"[\w./@%+:-]+", value):
        return value
    return setting_text(value) if value is None or isinstance(value, bool | int | float | str) else str(value)


def _examples(file: Path) -> Iterator[str]:
    """Examples of command lines: the comments at the beginning of the command's YAML."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        for part in line.lstrip("# ").split("; "):
            yield f"  {part}" if part.startswith("segflow") else f"    {part}"


def options_of(command: str, group: str, folders: Sequence[Path]) -> list[str]:
    """Options of a group that make sense for a command."""
    names = _shipped.options(group.partition("@")[0], folders)
    return [name for name in names if name != "auto" or group != "configuration" or command == "run"]


def _group(options: Sequence[str], group: str, default: str | None, meaning: str, width: int) -> list[str]:
    told = f" (default {default})" if default else ""
    text = f"{group}: {', '.join(options)}{told}"
    lines = textwrap.wrap(text, width - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [*(f"  {line}" for line in lines), *wrapped(first_sentence(meaning), width, 6)]


def _settings_lines(entries: Sequence[_catalogue.Entry], width: int) -> Iterator[str]:
    if entries and not entries[0].is_section:
        yield ""
    for entry in entries:
        if entry.is_section:
            yield ""
            yield from wrapped(f"{entry.key}: {first_sentence(entry.meaning)}", width, 0)
        else:
            text = value_text(entry.value)
            short = text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
            yield from _row(f"{entry.key}={short}", first_sentence(entry.meaning), width)


def _row(left: str, right: str, width: int) -> list[str]:
    """A line in two columns. The second begins at two fifths of the width, on a new line if the first is longer."""
    column = width * 2 // 5
    lines = textwrap.wrap(right, width - column, break_long_words=False, break_on_hyphens=False) or [""]
    if len(left) + 4 > column:
        return [f"  {left}", *(f"{'':{column}}{line}" for line in lines if line)]
    return [f"  {left:<{column - 2}}{lines[0]}".rstrip(), *(f"{'':{column}}{line}" for line in lines[1:])]


def wrapped(text: str, width: int, indent: int) -> list[str]:
    """Lines of a text, broken only between words."""
    return textwrap.wrap(
        text, width, initial_indent=" " * indent, subsequent_indent=" " * indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _ending(command: str, has_groups: bool) -> str:
    groups = f"segflow help {command} GROUP says what each option of a group is for. " if has_groups else ""
    section = _catalogue.section(command)
    short = f"Settings of {section} may be typed without that name. " if section else ""
    return (
        f"{short}{groups}segflow config find=WORD searches the settings of all commands. --cfg job prints the composed "
        "configuration, -m KEY=A,B runs a sweep, --config-dir adds a folder of your own YAML."
    )
