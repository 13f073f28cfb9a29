"""``segflow config``: a search for settings of all commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from segflow.apps import _catalogue, _help, _invocation, _shipped, _terminal
from segflow.apps._purposes import COMMANDS
from segflow.apps._records import Command, needed
from segflow.core.errors import SegflowError

USE = "Use: segflow config find=rate, or: segflow config find='learning rate'"


@dataclass(kw_only=True)
class Config(Command):
    """Settings of ``segflow config``.

    Attributes:
        find: Words to find in the name or the meaning of a setting, or of an option of a group.
    """

    find: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A setting or an option that has the words.

    Attributes:
        text: The setting or option as typed.
        meaning: Its meaning.
        commands: The commands that have it.
    """

    text: str
    meaning: str
    commands: tuple[str, ...]


def run(settings: Config) -> None:
    """Print all settings and options with the words, those with the words in their names first."""
    words = str(needed(settings.find, "find", USE)).casefold().split()
    own = (Path(flag.partition("=")[2]) for flag in _invocation.config_flags() if flag.startswith("--config-dir="))
    folders = [_shipped.config_dir(), *_shipped.folders_of_environment(), *own]
    everything = list(_everything(folders))
    found = [entry for entry in everything if _has(f"{entry.text} {entry.meaning}", words)]
    if not found:
        names = {entry.text.partition("=")[0].rpartition(".")[2] for entry in everything}
        near = get_close_matches(words[0], names, n=1)
        raise SegflowError(
            f"no setting has '{settings.find}' in its name or its meaning",
            fix=f"Did you mean find={near[0]}?" if near else USE,
        )
    width = _help.width_of_output()
    for entry in sorted(found, key=lambda entry: not _has(entry.text.partition("=")[0], words)):
        _terminal.say(entry.text)
        for line in _help.wrapped(f"{_help.plain_text(entry.meaning)} [{', '.join(entry.commands)}]", width, 4):
            _terminal.say(line)


def _has(text: str, words: Sequence[str]) -> bool:
    """Whether every word begins a word of a text."""
    return all(re.search(rf"(?<![^\W_]){re.escape(word)}", text.casefold()) for word in words)


def _everything(folders: Sequence[Path]) -> Iterator[Found]:
    """Settings and options of all commands, each once."""
    seen: dict[tuple[str, str], list[str]] = {}
    for command in COMMANDS:
        for entry in _catalogue.settings(command, folders):
            if not entry.is_section:
                text = f"{entry.key}={_help.value_text(entry.value)}"
                seen.setdefault((text, entry.meaning), []).append(command)
        for group in _catalogue.choices(command, folders):
            for option in _help.options_of(command, group, folders):
                purpose = _shipped.purpose(group.partition("@")[0], option, folders)
                seen.setdefault((f"{group}={option}", purpose), []).append(command)
    for (text, meaning), commands in seen.items():
        yield Found(text, meaning, tuple(commands))
