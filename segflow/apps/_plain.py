"""Composition without Hydra, for command lines that need none of it: options of groups, and values of settings.

The result is what Hydra composes; tests compare both. What is beyond this module (sweeps, launchers, interpolations,
``+`` and ``~``, a user's own command files) raises `NeedsHydraError`, and nothing is guessed.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TextIO

import yaml

from segflow.apps import _command_line, _commands, _messages, _read_settings, _settings, _shipped, _user_files
from segflow.apps._parts import SettingError
from segflow.apps._plain_values import NeedsHydraError, parsed

COMMANDS = frozenset(
    {"predict", "ensemble", "evaluate", "compare", "postprocess", "bundle", "convert", "doctor", "config"}
)
"""Commands that do not need the extra ``train``."""

SELF = "_self_"
_SETTING = re.compile(r"\+\+(?P<key>[\w-]+(?:\.[\w-]+)*)=(?P<value>.*)", re.DOTALL)
_GROUP = re.compile(r"(?P<group>[\w/]+(?:@\w+)?)=(?P<value>.*)", re.DOTALL)


def composed(command: str, arguments: Sequence[str], folders: Sequence[Path]) -> Any:
    """The settings of a command as its record.

    Args:
        command: Name of the command.
        arguments: Arguments as `_command_line.rewrite` gives them.
        folders: Folders of configuration, the shipped one first.

    Raises:
        NeedsHydraError: The command line or a file of configuration needs Hydra.
        SegflowError: A setting does not exist, or has a value that does not fit it.
    """
    values = _Composition(command, folders, *_read(arguments, folders)).values()
    try:
        return _read_settings.read(_commands.record_of(command), values)
    except SettingError as error:
        raise _user_files.told(error, command, folders) from error


def _read(arguments: Sequence[str], folders: Sequence[Path]) -> tuple[dict[str, list[str]], list[tuple[str, Any]]]:
    """Options of groups, and values of settings, in the order of the command line."""
    flags, overrides = _command_line.split(arguments)
    if beyond := [flag for flag in _without_folders(flags) if flag]:
        raise NeedsHydraError(beyond[0])
    options: dict[str, list[str]] = {}
    values: list[tuple[str, Any]] = []
    for override in overrides:
        setting, group = _SETTING.fullmatch(override), _GROUP.fullmatch(override)
        if setting:
            values.append((setting["key"], _value(override, setting["value"])))
        elif group and group["group"] not in options and _is_group(group["group"], folders):
            option = _value(override, group["value"])
            if isinstance(option, dict):
                raise NeedsHydraError(override)
            options[group["group"]] = list(map(str, option)) if isinstance(option, list) else [str(option)]
        else:
            raise NeedsHydraError(override)
    return options, values


def _value(override: str, text: str) -> Any:
    try:
        return parsed(text)
    except NeedsHydraError:
        raise NeedsHydraError(override) from None


def _without_folders(flags: Sequence[str]) -> Iterator[str]:
    """The flags without those that name folders, which are known."""
    known = ("--config-dir", "-cd")
    for before, flag in zip(["", *flags], flags, strict=False):
        if before not in known and flag.partition("=")[0] not in known:
            yield flag


def _is_group(name: str, folders: Sequence[Path]) -> bool:
    group = name.partition("@")[0]
    return group.partition("/")[0] != "hydra" and any((folder / group).is_dir() for folder in folders)


@dataclass(slots=True)
class _Composition:
    """The values of a command, from its record, its files, and its command line.

    Attributes:
        command: Name of the command.
        folders: Folders of configuration, the shipped one first.
        chosen: Group → options that the command line chooses.
        typed: Key → value, as the command line sets them.
    """

    command: str
    folders: Sequence[Path]
    chosen: dict[str, list[str]]
    typed: list[tuple[str, Any]]
    _used: set[str] = field(default_factory=set)

    def values(self) -> dict[str, Any]:
        """The values as plain dicts and lists."""
        found: dict[str, Any] = {}
        self._add(found, self.command)
        if unused := self.chosen.keys() - self._used:
            raise SettingError(_messages.no_group(min(unused), _messages.known_keys(self.folders, self.command)))
        for key, value in self.typed:
            _set(found, key, value)
        return found

    def _add(self, found: dict[str, Any], name: str) -> None:
        """Add a command's file, or one that it builds on: its defaults in their order, and its own keys."""
        if name == f"_{self.command}":
            _merge(found, _settings.defaults_of(_commands.record_of(self.command)))
            return
        content = self._content(f"{name}.yaml")
        content.pop("hydra", None)
        for entry in _defaults(content):
            if isinstance(entry, str):
                _merge(found, content) if entry == SELF else self._add(found, entry)
            else:
                self._add_options(found, *entry)

    def _add_options(self, found: dict[str, Any], name: str, option: str | None) -> None:
        """Add a group's options: what the command line chooses, or the default."""
        self._used.add(name)
        group, _, package = name.partition("@")
        for chosen in self.chosen.get(name, [option] if option is not None else []):
            values: dict[str, Any] = {}
            self._add_option(values, group, chosen)
            place = found.setdefault(package or group, {})
            if not isinstance(place, dict):
                place = found[package or group] = {}
            _merge(place, values)

    def _add_option(self, found: dict[str, Any], group: str, option: str) -> None:
        known = _shipped.options(group, self.folders)
        if option not in known:
            raise SettingError(_messages.no_option(group, option, known))
        content = self._content(f"{group}/{option}.yaml")
        for entry in _defaults(content):
            if not isinstance(entry, str):
                raise NeedsHydraError(f"{group}={option}")
            _merge(found, content) if entry == SELF else self._add_option(found, group, entry)

    def _content(self, name: str) -> dict[str, Any]:
        """What a file holds. Which of two files of one name counts is for Hydra to say."""
        files = [file for folder in self.folders if (file := folder / name).is_file()]
        if len(files) != 1:
            raise NeedsHydraError(name)
        with files[0].open(encoding="utf-8") as opened:
            content = _loaded(opened)
        shown = {key: value for key, value in content.items() if key not in ("hydra", "defaults")}
        if _is_preset_like(files[0]) or any("${" in text or text == "???" for text in _texts(shown)):
            raise NeedsHydraError(name)
        return content


def _is_preset_like(file: Path) -> bool:
    """Whether a file says itself where its keys belong."""
    return re.match(r"(\s*#.*\n|\s*\n)*\s*#\s*@package", file.read_text(encoding="utf-8")) is not None


def _loaded(file: TextIO) -> dict[str, Any]:
    loader = _Loader(file)
    try:
        content = loader.get_single_data()
    finally:
        loader.dispose()
    if not isinstance(content, dict | None):
        raise NeedsHydraError(file.name)
    return content or {}


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML as OmegaConf does: ``1e-3`` is a number, a date is a text, and no key comes twice."""

    yaml_implicit_resolvers: ClassVar = {
        sign: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for sign, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Called by yaml for each mapping."""
        names = [key.value for key, _ in node.value]
        if len(set(names)) < len(names):
            raise yaml.constructor.ConstructorError(
                "while constructing a mapping", node.start_mark, "found a key twice", node.start_mark
            )
        return dict(super().construct_mapping(node, deep=deep))


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(_\d+)*(\.[\d_]*)?[eE][-+]?\d+"), list("-+0123456789")
)


def _texts(value: Any) -> Iterator[str]:
    """All texts within a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _defaults(content: dict[str, Any]) -> list[str | tuple[str, str | None]]:
    """The defaults list of a file, taken out of its content: names of files, and groups with their option."""
    entries: list[str | tuple[str, str | None]] = []
    for entry in content.pop("defaults", []):
        name, option = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, None)
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+(@\w+)?", name) or not isinstance(option, str | None):
            raise NeedsHydraError(str(entry))
        entries.append((name, option) if isinstance(entry, dict) else name)
    return entries if SELF in entries else [*entries, SELF]


def _merge(first: dict[Any, Any], second: Mapping[Any, Any]) -> None:
    """Put the second values into the first, mapping by mapping."""
    for name, value in second.items():
        before = first.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        elif isinstance(before, dict | list) and isinstance(value, dict | list) and type(before) is not type(value):
            raise NeedsHydraError(str(name))
        else:
            first[name] = copy.deepcopy(value)


def _set(values: dict[Any, Any], key: str, value: Any) -> None:
    """Set one value, as the command line says it. A mapping is merged into what is there."""
    *above, last = key.split(".")
    for name in above:
        inner = values.get(name)
        if isinstance(inner, list):
            raise NeedsHydraError(key)
        if not isinstance(inner, dict):
            inner = values[name] = {}
        values = inner
    _merge(values, {last: value})
