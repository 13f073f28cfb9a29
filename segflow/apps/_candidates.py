"""Candidates for the next word of a command line: commands, groups, settings, values, and files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segflow.apps import _catalogue, _commands, _shipped
from segflow.apps._command_line import values_of
from segflow.apps._flags import ALONE, VALUES, WITH_VALUE
from segflow.apps._purposes import COMMANDS
from segflow.storage.file_names import DESCRIPTION_FILE, FOLD_PREFIX, SPLITS_FILE

MOST_RUNS = 200
"""Largest number of run folders that are offered."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible word.

    Attributes:
        text: The whole word, unquoted.
        whole: Whether the word is complete. Otherwise it continues after ``=``, ``.`` or ``/``.
        meaning: Its meaning, for shells that show it.
    """

    text: str
    whole: bool = True
    meaning: str = ""


def candidates(words: Sequence[str], current: str) -> list[Candidate]:
    """Words that begin like the current one.

    Args:
        words: Complete words between ``segflow`` and the current one.
        current: The typed part of the current word.
    """
    found = _command_words(words) if not words or words[0] == "help" else _Words(list(words), current).found()
    unique = {candidate.text: candidate for candidate in found if candidate.text.startswith(current)}
    return sorted(unique.values(), key=lambda candidate: candidate.text)


def _command_words(words: Sequence[str]) -> Iterator[Candidate]:
    if len(words) > 1:
        return
    for name, purpose in COMMANDS.items():
        yield Candidate(name, meaning=purpose)
    if not words:
        yield from (Candidate(word) for word in ("help", "--help", "--version", "--shell-completion"))


class _Words:
    """A command line that is being typed.

    Args:
        words: The command and the complete words after it.
        current: The typed part of the current word.
    """

    def __init__(self, words: list[str], current: str) -> None:
        self.command, *self.words = words
        self.current = current
        self.given = dict(word.lstrip("+").split("=", 1) for word in self.words if "=" in word and word[0] != "-")
        dirs = values_of("--config-dir", self.words)
        self.folders = [
            _shipped.config_dir(),
            *_shipped.folders_of_environment(),
            *(Path(name).expanduser() for name in dirs),
        ]
        self.groups = _catalogue.choices(self.command, self.folders)
        known = self.command in COMMANDS
        self.section = _commands.record_of(self.command).SECTION if known else ""
        entries = _catalogue.settings(self.command, self.folders, self.given) if known else []
        self.settings = {entry.key: entry for entry in entries}

    def found(self) -> Iterable[Candidate]:
        """Candidates for the current word."""
        if self.command not in COMMANDS:
            return []
        before = self.words[-1] if self.words else ""
        if before and before in (*WITH_VALUE, *WITH_VALUE.values()):
            return self._behind_flag(before)
        if self.current.startswith("-"):
            return [Candidate(flag) for flag in (*ALONE, *WITH_VALUE) if flag.startswith("--") or flag == "-m"]
        key, equals, value = self.current.partition("=")
        return self._values(key, value) if equals else self._keys()

    def _behind_flag(self, flag: str) -> Iterable[Candidate]:
        short = WITH_VALUE.get(flag, flag)
        if short in ("-cd", "-cp"):
            return [c for c in _files("", self.current) if not c.whole]
        if short == "-cn":
            names = {file.stem for folder in self.folders for file in folder.glob("*.yaml")}
            return [Candidate(name) for name in names if not name.startswith("_")]
        return [Candidate(value) for value in VALUES.get(short) or self.groups]

    def _keys(self) -> Iterator[Candidate]:
        """Groups, settings and sections, one level at a time."""
        typed = self.current.lstrip("+~")
        mark = self.current[: len(self.current) - len(typed)]
        names = dict.fromkeys(self.groups, "=")
        for key, entry in self.settings.items():
            ends = "." if entry.is_section else "="
            short = key.removeprefix(f"{self.section}.")
            names |= {key: names.get(key, ends)} if short in self.settings else {key: ends, short: ends}
        for name, ends in names.items():
            below = name.find(".", len(typed)) if name.startswith(typed) else -1
            yield Candidate(f"{mark}{name[: below + 1] if below >= 0 else name + ends}", whole=False)

    def _values(self, key: str, value: str) -> Iterator[Candidate]:
        """Values of a setting. After a comma or a bracket, values of the next element."""
        plain = key.lstrip("+~").partition("@")[0]
        if plain not in self.settings and f"{self.section}.{plain}" in self.settings:
            plain = f"{self.section}.{plain}"
        opened = re.match(r"(.*[\[,]|)(.*)$", value, re.DOTALL)
        head, last = (opened[1], opened[2]) if opened else ("", value)
        if self._is_path(plain):
            runs = [] if last or plain not in ("model", "run", "training.initial_weights") else self._runs()
            for file in runs or _files(f"{key}={head}", last):
                yield Candidate(f"{key}={head}{file}") if isinstance(file, Path) else file
            return
        taken = set(re.split(r"[\[\],]", head))
        for text, meaning in self._texts(plain):
            if text not in taken:
                yield Candidate(f"{key}={head}{text}", whole=not head.startswith("["), meaning=meaning)

    def _texts(self, key: str) -> Iterator[tuple[str, str]]:
        if key in self.groups:
            offered = list(self._options(key))
            yield from offered
        elif key in ("configurations", "configuration.name", "inference.configuration", "bundle.configuration"):
            yield from ((name, "") for name in self._planned_configurations())
        elif key in ("plans", "planner.plans_name"):
            files = _files_in(self._prepared(), "*.json")
            yield from ((file.stem, "") for file in files if "configurations" in _json(file))
        elif key in ("run_name", "previous_run_name"):
            yield from ((folder.parent.name, "") for folder in _files_in(self._outputs(), f"*/*/*/{FOLD_PREFIX}*"))
        elif key == "dataset.name":
            yield from ((name, "") for name in self._dataset_names())
        elif key == "fold.index":
            yield from ((fold, "") for fold in self._planned_folds())
        elif key in self.settings:
            yield from ((word, "") for word in self._words(self.settings[key]))

    def _words(self, entry: _catalogue.Entry) -> list[str]:
        """The words that a setting takes, as far as its type or its meaning lists them."""
        if "true or false" in entry.kind or isinstance(entry.value, bool):
            return ["true", "false"]
        if " | " in entry.kind:
            return entry.kind.split(" | ")
        return re.findall(r"``([\w./:-]+)``", entry.meaning) if entry.kind.startswith("a text") else []

    def _is_path(self, key: str) -> bool:
        return key in _catalogue.paths(self.command)

    def _options(self, group: str) -> Iterator[tuple[str, str]]:
        names = _shipped.options(group.partition("@")[0], self.folders)
        if group == "fold" and (folds := self._planned_folds()):
            names = [name for name in names if name in (*folds, "all") or not name.isdigit()]
        if group == "configuration" and (planned := self._planned_configurations()):
            names = [name for name in names if name in planned or not re.match(r"\dd", name)]
        if group == "configuration" and self.command != "run":
            names = [name for name in names if name != "auto"]
        for name in names:
            yield name, _shipped.purpose(group.partition("@")[0], name, self.folders)
        if group == "dataset":
            yield from ((name, "") for name in self._dataset_names())

    # ------------------------------------------------------------------------------------------- on the disk

    def _root(self, name: str) -> Path:
        """The value of ``paths.NAME`` from this command line and the environment."""
        key = f"paths.{name}"
        entry = self.settings.get(key)
        return Path(str(self.given.get(key) or (entry.value if entry else "") or "")).expanduser()

    def _dataset_names(self) -> list[str]:
        found = (child for root in ("raw", "preprocessed") for child in _files_in(self._root(root), "Dataset*"))
        return sorted({child.name for child in found if (child / DESCRIPTION_FILE).is_file()})

    def _dataset(self) -> str:
        """Name of the line's dataset; empty if none is named and there are several."""
        if path := self.given.get("dataset.path"):
            return Path(path).expanduser().name
        names = self._dataset_names()
        named = self.given.get("dataset.name") or self.given.get("dataset", "")
        if number := re.fullmatch(r"(?:Dataset)?(\d+)", named):
            return next((name for name in names if re.match(rf"Dataset0*{int(number[1])}_", name)), "")
        option = _catalogue.option_content("dataset", named or "phantom", self.folders)
        own = str(option.get("name") or Path(named).name)
        return own if named or names == [own] or not names else ""

    def _prepared(self) -> Path:
        return self._root("preprocessed") / (self._dataset() or "-")

    def _outputs(self) -> Path:
        return self._root("outputs") / (self._dataset() or "*")

    def _planned_configurations(self) -> list[str]:
        name = self.given.get("plans") or self.given.get("planner.plans_name") or "nnUNetPlans"
        return list(_json(self._prepared() / f"{name}.json").get("configurations") or ())

    def _planned_folds(self) -> list[str]:
        splits = _json(self._prepared() / SPLITS_FILE).get("") or ()
        return [str(fold) for fold in range(len(splits))]

    def _runs(self) -> list[Path]:
        """Folders of trained runs below ``paths.outputs``."""
        found = dict.fromkeys(fold.parent for fold in _files_in(self._outputs(), f"*/*/*/{FOLD_PREFIX}*"))
        return list(found)[:MOST_RUNS]


def _json(file: Path) -> Mapping[str, Any]:
    """Content of a JSON file. A list is given under the empty name, and a missing file is empty."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {"": content}


def _files_in(folder: Path, pattern: str) -> list[Path]:
    """Files in a folder; the last part of the pattern may be ``*``."""
    if folder.name == "*":
        folder, pattern = folder.parent, f"*/{pattern}"
    return sorted(folder.glob(pattern)) if folder.is_dir() else []


def _files(head: str, typed: str) -> Iterator[Candidate]:
    """Files and folders whose paths begin as typed. Hidden ones are only offered after a dot."""
    folder, slash, start = typed.rpartition("/")
    place = Path(f"{folder}{slash}" or ".").expanduser()
    for child in sorted(place.iterdir()) if place.is_dir() else []:
        if child.name.startswith(start) and (start.startswith(".") or not child.name.startswith(".")):
            inside = child.is_dir()
            yield Candidate(f"{head}{folder}{slash}{child.name}{'/' if inside else ''}", whole=not inside)
