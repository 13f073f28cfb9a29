"""Command lines of newcomers, answered with a line to paste before anything is composed.

Users of argparse, nnU-Net or other Hydra applications type ``fold 0``, ``--fold 0``, ``epochs=10`` or ``fold=0,1``.
Hydra does not accept these, and its messages do not say what to type.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from segflow.apps import _catalogue, _commands, _nnunet_names, _shipped
from segflow.apps._command_line import split_values
from segflow.apps._flags import ALONE, VALUES, WITH_VALUE
from segflow.apps._nnunet_commands import PAGE, setting_of_flag
from segflow.apps._synonyms import ACTIONS, LAUNCHERS, LAUNCHING, OTHER_NAMES, PLACES
from segflow.core.errors import SegflowError


class CommandLineError(SegflowError):
    """A command line that cannot be run as it was typed. Commands end with exit code 2."""


def check(command: str, arguments: Sequence[str], folders: Sequence[Path]) -> None:
    """Refuse a command line in the form of another tool, with the line that does the same in segflow.

    Args:
        command: Name of the command.
        arguments: Arguments as typed.
        folders: Folders of configuration, the shipped one first.

    Raises:
        CommandLineError: It cannot be run as typed. The error says what to type.
    """
    line = _Line(command, folders, list(arguments))
    line.read()
    if line.problem:
        fixed = shlex.join(["segflow", command, *line.right])
        fixes = [*line.advice, f"Type: {fixed}"] if line.certain else line.advice
        raise CommandLineError(line.problem, fix=" ".join(fixes) or None)


COMBINED = frozenset({"logger"})
"""Groups of which one run may have several options."""


@dataclass(slots=True)
class _Line:
    """A command line that is being read.

    Attributes:
        command: Name of the command.
        folders: Folders of configuration.
        rest: Arguments that are not read yet.
        right: Correct words for the arguments that were read.
        problem: The first problem; empty if there is none.
        advice: More about the problem, as sentences.
        certain: Whether ``right`` is all that was meant.
    """

    command: str
    folders: Sequence[Path]
    rest: list[str]
    right: list[str] = field(default_factory=list)
    problem: str = ""
    advice: list[str] = field(default_factory=list)
    certain: bool = True
    _groups: Mapping[str, object] = field(init=False)
    _settings: Mapping[str, _catalogue.Entry] = field(init=False)
    _section: str = field(init=False)
    _multirun: bool = field(init=False)

    def __post_init__(self) -> None:
        groups = _catalogue.choices(self.command, self.folders)
        chosen = dict(word.split("=", 1) for word in self.rest if word.partition("=")[0] in groups and "=" in word)
        self._groups = groups
        self._settings = {entry.key: entry for entry in _catalogue.settings(self.command, self.folders, chosen)}
        self._section = _commands.record_of(self.command).SECTION
        self._multirun = any(word in ("-m", "--multirun") or word.startswith("hydra.mode=") for word in self.rest)

    def read(self) -> None:
        """Read all arguments, from the first to the last."""
        while self.rest:
            word = self.rest.pop(0)
            if word.startswith("-"):
                self._flag(word)
            elif "=" in word:
                self._setting(word)
            else:
                self._bare(word)

    def _wrong(self, problem: str, *right: str, advice: str = "", certain: bool = True) -> None:
        if not self.problem:
            self.problem, self.advice = problem, [advice] if advice else []
        self.certain = self.certain and certain
        self.right += right

    # -------------------------------------------------------------------------------------------------- flags

    def _flag(self, word: str) -> None:
        name, equals, value = word.partition("=")
        following = self.rest[0] if self.rest and not equals else value
        if name in (*ALONE, *WITH_VALUE, *WITH_VALUE.values()) and _is_hydras(name, following):
            self.right.append(word)
            if name not in ALONE and not equals and self.rest:
                self.right.append(self.rest.pop(0))
            return
        if name == "-tr" and _nnunet_names.is_trainer_class(following):
            if not equals:
                self.rest.pop(0)
            self._trainer_class(f"{name} {following}", following)
            return
        plain = name.lstrip("-").replace("-", "_")
        is_ours = name.startswith("--") and self._has(plain)
        key = self._meant(plain) if is_ours or not setting_of_flag(self.command, name) else ""
        if not key:
            self.right.append(word)  # refused with the other flags, with segflow's name for nnU-Net's
            self.right += [] if equals else self._value_behind()
            return
        if not equals:
            value = next(iter(self._value_behind()), "true")
        typed = f"{name}={value}" if equals else name if value == "true" else f"{name} {value}"
        self._wrong(f"there is no flag '{typed}'; settings are written KEY=VALUE", f"{key}={value}")

    def _value_behind(self) -> list[str]:
        """The next word, taken, where it can be the value of a flag."""
        is_value = bool(self.rest) and "=" not in self.rest[0] and not self.rest[0].startswith("-")
        return [self.rest.pop(0)] if is_value else []

    # ----------------------------------------------------------------------------------------------- settings

    def _setting(self, word: str) -> None:
        head, _, value = word.partition("=")
        key = head.lstrip("+~")
        values = [value, *(other.removeprefix(f"{head}=") for other in self._same_behind(head))]
        if self._was_taken_apart(key, values):
            del self.rest[: len(values) - 1]
            self._taken_apart(key, values)
        elif key in ("hydra/launcher", "hydra/sweeper"):
            self._launcher(word, value)
        elif key == "trainer" and _nnunet_names.is_trainer_class(value):
            self._trainer_class(word, value)
        elif key == "planner" and value not in self._options(key) and _nnunet_names.planner_of(value):
            option = _nnunet_names.planner_of(value)
            self._wrong(f"nnU-Net's {value} is here {key}={option}", f"{key}={option}")
        elif head == key and not self._has(key) and self._meant(key):
            own = self._meant(key)
            self._wrong(f"there is no setting '{key}'", f"{own}={value}", advice=f"Did you mean '{own}'?")
        elif head == key and self._has(key) and self._several(key, value):
            self._sweep(key, value)
        else:
            self.right.append(word)

    def _same_behind(self, head: str) -> list[str]:
        """The next words, as far as they are of the same setting."""
        return list(takewhile(lambda word: word.startswith(f"{head}="), self.rest))

    def _was_taken_apart(self, key: str, values: Sequence[str]) -> bool:
        """Whether these words of one setting were one, ``KEY={A,B}``, which a shell writes out as ``KEY=A KEY=B``.

        Two values of a run that is no sweep may come from a script that puts the user's words behind its own: the last
        one counts.
        """
        if len(set(values)) < 2:
            return False
        if self._is_mapping(key):
            return not all(value.startswith("{") or value == "null" for value in values)
        return len(values) > (1 if self._multirun else 2)

    def _taken_apart(self, key: str, values: Sequence[str]) -> None:
        whole = f"{key}={{{','.join(values)}}}"
        if self._is_mapping(key):
            problem = f"'{key}' came in {len(values)} words, as a shell writes out {whole}; quotes keep it whole"
            self._wrong(problem, whole)
        else:
            self._sweep(key, ",".join(values))

    def _is_mapping(self, key: str) -> bool:
        entry = self._entry(key)
        return entry is not None and entry.kind.startswith("a mapping")

    def _several(self, key: str, value: str) -> bool:
        """Whether there are several values for a setting that takes one."""
        if key in self._groups and value.startswith("["):
            return key not in COMBINED
        if self._multirun or len(split_values(value)) < 2 or re.match(r"\w+\(", value):
            return False
        whole = key if key in self._settings else f"{self._section}.{key}"
        lists = _catalogue.NUMBERED | _catalogue.listed(self.command)
        return whole not in _catalogue.taken_as_typed(self.command) | lists

    def _sweep(self, key: str, value: str) -> None:
        values = ",".join(split_values(value.removeprefix("[").removesuffix("]") if value.startswith("[") else value))
        whole = {"fold": "fold.index", "configuration": "configuration.name"}.get(key)
        if self.command == "run" and whole:
            self._wrong(f"'{key}' has several values; segflow run takes them as a list", f"{whole}=[{values}]")
        elif (entry := self._entry(key)) is not None and re.search(r"\ba list of\b", entry.kind):
            self._wrong(f"'{key}' has several values, which are written as a list", f"{key}=[{values}]")
        elif self._multirun:
            self._wrong(f"'{key}' is not a list; -m takes its values with commas", f"{key}={values}")
        else:
            self._wrong(f"'{key}' has several values; -m runs one after another", f"{key}={values}")
            self.right[:0] = [] if "-m" in self.right else ["-m"]

    def _trainer_class(self, word: str, name: str) -> None:
        settings = _nnunet_names.settings_of_class(name)
        if settings is None:
            near = _nnunet_names.nearest_class(name)
            ours = f"{near} is here {_nnunet_names.TRAINER_CLASSES[near]}." if near else ""
            advice = f"{ours} {PAGE} lists the settings for each trainer class.".strip()
            self._wrong(f"'{word}': there is no class {name} here", advice=advice, certain=False)
            return
        what = " ".join(settings) or "what segflow train does by itself"
        self._wrong(f"'{word}': nnU-Net's {name} is here {what}", *settings)

    def _launcher(self, word: str, value: str) -> None:
        module, package = LAUNCHERS.get(value, ("", ""))
        if module and not _is_installed(module):
            self._wrong(f"'{word}' needs {module}", advice=f"Install it: pip install '{package}'", certain=False)
        elif word.startswith("hydra/launcher") and not self._multirun and self.command not in LAUNCHING:
            self._wrong(f"'{word}' launches the jobs of a sweep, which -m starts", "-m")
        self.right.append(word)

    # ----------------------------------------------------------------------------------------- words without =

    def _bare(self, word: str) -> None:
        if word.startswith("~"):
            self.right.append(word)
            return
        following = self.rest[0] if self.rest else ""
        key = word if self._has(word) else "" if self.command in PLACES else self._meant(word)
        if key and following and "=" not in following and not following.startswith("-"):
            self.rest.pop(0)
            self._wrong(f"settings are written KEY=VALUE; found '{word} {following}'", f"{key}={following}")
        elif key and not self._option(word):
            self._wrong(f"cannot read the argument '{word}'", advice=f"Write {key}=VALUE.", certain=False)
        elif meant := self._place(word):
            self._wrong(f"cannot read the argument '{word}'", meant, advice=f"Did you mean '{meant}'?")
        else:
            self._wrong(
                f"cannot read the argument '{word}'; write KEY=VALUE, and quote special characters: \"KEY='a b'\"",
                advice=f"segflow {self.command} --help lists the settings.",
                certain=False,
            )

    def _place(self, word: str) -> str:
        """``KEY=WORD`` for a word without a key; empty if the key is not clear."""
        given = {argument.partition("=")[0] for argument in (*self.right, *self.rest)}
        if word in ACTIONS.get(self.command, ()):
            return f"action={word}"
        if _nnunet_names.is_trainer_class(word) and "trainer" in self._groups:
            return " ".join(_nnunet_names.settings_of_class(word) or [])
        if option := self._option(word):
            return option
        if self.command in PLACES:
            free = [key for key in PLACES[self.command] if key not in given]
            return f"{free[0]}={word}" if free else ""
        named = {"dataset", "dataset.path", "dataset.name"} & given
        if self.command == "ensemble" or named or "dataset" not in self._groups:
            return f"fold={word}" if word in self._options("fold") and "fold" in self._groups else ""
        if re.fullmatch(r"\d+|Dataset\d+(_[\w.-]+)?", word):
            return f"dataset={word}"
        return f"dataset.path={word}" if "/" in word or Path(word).expanduser().is_dir() else ""

    def _option(self, word: str) -> str:
        """``GROUP=WORD`` if exactly one group of the command has such an option."""
        groups = [key for key in self._groups if not word.isdigit() and word in self._options(key)]
        return f"{groups[0]}={word}" if len(groups) == 1 else ""

    # -------------------------------------------------------------------------------------------------- names

    def _options(self, group: str) -> list[str]:
        return _shipped.options(group.partition("@")[0], self.folders)

    def _has(self, key: str) -> bool:
        plain = key.partition("@")[0]
        if plain in self._groups or self._entry(plain) is not None:
            return True
        files = (file for folder in self.folders[1:] for file in folder.rglob("*.yaml"))
        return any(plain.split(".")[0] in _shipped.content(file) for file in files)  # such as a key of a preset

    def _entry(self, key: str) -> _catalogue.Entry | None:
        return self._settings.get(key) or self._settings.get(f"{self._section}.{key}")

    def _other_name(self, key: str) -> str:
        mine = (name for name in OTHER_NAMES.get(key, ()) if name in self._groups or name in self._settings)
        return next(mine, "")

    def _meant(self, word: str) -> str:
        """The setting that a word names: with its full name, without its section, or with its name in other tools."""
        if self._has(word):
            return word
        if other := self._other_name(word):
            return other
        inside = [key for key in self._settings if key.endswith(f".{word}")]
        return inside[0] if len(inside) == 1 else ""


def _is_hydras(name: str, value: str) -> bool:
    allowed: Sequence[str] | None = VALUES.get(name, ())
    if name not in VALUES:
        return True
    return value in allowed if allowed else not value.startswith("nnUNet")


def _is_installed(module: str, find: Callable[[str], object] = find_spec) -> bool:
    try:
        return find(module) is not None
    except ModuleNotFoundError:
        return False
