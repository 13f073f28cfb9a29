"""Groups, options and settings of commands, each setting with its default and its meaning.

They are read from the command's record, from YAML and from the source of ``_target_``. Completion, hints and help use
them, so that they do not wait for torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from segflow.apps import _commands, _settings, _shipped, _targets
from segflow.apps._kinds import in_words
from segflow.apps._parts import OF_HYDRA, TARGET
from segflow.apps._synonyms import LAUNCHING

NAME_KEYS = ("run_name", "previous_run_name", "plans", "planner.plans_name")
"""Settings that are names of folders and files. A comma between two names means a sweep without ``-m``."""

LAUNCHER = "hydra/launcher"
"""The one group of Hydra's own that has options here. Without one, jobs run in this process."""

NO_OPTION = ("null", "none", None)

OF_EVERY_COMMAND = ("paths", "max_memory_gb", "verbose")
"""What stands last, since every command has it."""

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w.-]+):(?P<rest>.*)$")
_COMMENT = re.compile(r"\s#\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting, or one section of settings, of a command.

    Attributes:
        key: Where it stands, such as ``optimizer.lr``.
        value: Its default as plain values, as far as an option or the record gives one; else `MISSING`.
        meaning: One or more sentences, as they stand in a docstring or behind the value in YAML.
        kind: What its value may be, in words; empty where nothing says.
        is_section: Whether it holds settings of its own.
    """

    key: str
    value: Any
    meaning: str
    kind: str = ""
    is_section: bool = False


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
    if command in (*LAUNCHING, "train"):
        found[LAUNCHER] = (LAUNCHER.replace("/", "."), None)
    return found


def settings(command: str, folders: Sequence[Path], chosen: Mapping[str, str] | None = None) -> list[Entry]:
    """Every section and setting of a command, those that stand by themselves first.

    Args:
        command: Name of the command.
        folders: Folders of configuration, the shipped one first.
        chosen: Group → option, for options other than the default.
    """
    record: type = _commands.record_of(command)
    known = {setting.key: setting for setting in _settings.settings_of(record)}
    top = _settings.meanings(record)
    order = [name for name in top if name not in OF_EVERY_COMMAND]
    values = _composed(command, folders, chosen or {})
    ordered = {name: values[name] for name in [*order, *OF_EVERY_COMMAND] if name in values}
    comments = {**dict(_settings.meanings_of_sections(record)), **_comments_of(command, folders, chosen or {})}
    entries: list[Entry] = []
    for name, value in {**ordered, **values}.items():
        found = _walk(str(name), value, top.get(str(name), ""), known, comments)
        entries += [_resolved(entry, values) for entry in found]
    alone = [entry for entry in entries if not entry.is_section and "." not in entry.key]
    return [*alone, *(entry for entry in entries if entry not in alone)]


def option_content(group: str, option: str, folders: Sequence[Path]) -> dict[str, Any]:
    """What an option sets, with all that it builds on; nothing of one that does not exist or is a preset."""
    content: dict[str, Any] = {}
    for file in _files_of_option(group, option, folders):
        content = _merged(content, _shipped.content(file))
    return content


def inherited_content(group: str, option: str, folders: Sequence[Path]) -> dict[str, Any]:
    """What an option builds on sets, without what its own file does."""
    content: dict[str, Any] = {}
    for file in _files_of_option(group, option, folders)[:-1]:
        content = _merged(content, _shipped.content(file))
    return content


def _files_of_option(group: str, option: str, folders: Sequence[Path]) -> list[Path]:
    """The file of an option, behind those that it builds on."""
    file = next((f for folder in reversed(folders) if (f := folder / group / f"{option}.yaml").is_file()), None)
    if file is None or is_preset(file):
        return []
    names = [name for name, _ in _entries(file) if name not in ("_self_", option)]
    below = [name for name in names if not name.startswith(("override ", "/"))]
    return [*(f for name in below for f in _files_of_option(group, name, folders)), file]


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


def _composed(command: str, folders: Sequence[Path], chosen: Mapping[str, str]) -> dict[str, Any]:
    """The configuration of a command as Hydra would compose it, interpolations not resolved."""
    record = _commands.record_of(command)
    composed = _settings.defaults_of(record)
    own = list(_shipped.files_of(command, folders[0]))
    for group, (key, default) in choices(command, folders).items():
        option = chosen.get(group, default)
        if option and (content := option_content(group.partition("@")[0], option, folders)):
            composed[key] = _merged(composed.get(key) or {}, content)
    for file in reversed(own):  # a command's own file has the last word over those that it builds on
        composed = _merged(composed, _shipped.content(file))
    for setting in _settings.settings_of(record):
        if "." not in setting.key and setting.default is MISSING:
            composed.setdefault(setting.key, None)
    return composed


def _walk(
    key: str,
    value: Any,
    meaning: str,
    known: Mapping[str, _settings.Setting],
    comments: Mapping[str, str],
    kind: str = "",
) -> Iterator[Entry]:
    """A setting, or a section and what it holds. What stands in a mapping of names of choice has its meaning."""
    if not isinstance(value, Mapping) or not value:
        setting = known.get(key)
        told = setting.meaning if setting else meaning
        yield Entry(key, value, told or comments.get(key, ""), setting.type if setting else kind)
        return
    target = _targets.look(str(value[TARGET])) if TARGET in value else None
    ours = str(value.get(TARGET, "segflow.")).startswith("segflow.")
    purpose = _targets.purpose(str(value[TARGET])) if target else ""
    told_of_all = known[key].meaning if key in known else ""
    yield Entry(key, value, told_of_all or meaning or comments.get(key, "") or purpose, is_section=True)
    if not target and meaning and "." in key and key not in comments:
        told_of_all = told_of_all or meaning  # names of choice, in a part's own option
    for name, inner in value.items():
        if name in OF_HYDRA:
            continue
        parameter = target.parameters.get(str(name)) if target else None
        told = parameter.meaning if parameter else ""
        if not ours:  # what segflow says of it in YAML is shorter, and about this use
            told = comments.get(f"{key}.{name}") or told
        if not told and f"{key}.{name}" not in comments and f"{key}.{name}" not in known:
            told = "" if isinstance(inner, Mapping) and TARGET in inner else told_of_all
        words = in_words(parameter.type) if parameter and parameter.type is not None else ""
        yield from _walk(f"{key}.{name}", inner, told, known, comments, words)


def _resolved(entry: Entry, composed: Mapping[str, Any]) -> Entry:
    """With the value of the setting that it refers to, where that is all it does."""
    reference = re.fullmatch(r"\$\{([\w.]+)\}", entry.value) if isinstance(entry.value, str) else None
    value: Any = composed
    for name in reference[1].split(".") if reference else ():
        value = value.get(name) if isinstance(value, Mapping) else None
    return replace(entry, value=value) if reference and value is not None else entry


def _comments_of(command: str, folders: Sequence[Path], chosen: Mapping[str, str]) -> dict[str, str]:
    """Key → what stands behind its value in YAML: the meaning of options of other libraries' classes."""
    found: dict[str, str] = {}
    for group, (key, default) in choices(command, folders).items():
        option, name = chosen.get(group, default), group.partition("@")[0]
        others = [file for file in sorted((folders[0] / name).glob("*.yaml")) if not is_preset(file)]
        for file in [*others, *(_files_of_option(name, option, folders) if option else ())]:  # the option's own last
            found |= {f"{key}.{inner}": text for inner, text in comments_in(file).items()}
    return found


@cache
def comments_in(file: Path) -> dict[str, str]:
    """Dotted key → the comment behind its value."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _KEY.match(line)
        if not match:
            continue
        indent = len(match["indent"])
        above = [(depth, name) for depth, name in above if depth < indent]
        above.append((indent, match["key"]))
        if comment := _COMMENT.search(match["rest"]):
            found[".".join(name for _, name in above)] = comment[1]
    return found


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(first)
    for name, value in second.items():
        before = merged.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(before, value) if both else value  # type: ignore[arg-type]
    return merged


def section(command: str) -> str:
    """The section whose settings may be given without its name; empty where a command has none."""
    return _commands.record_of(command).SECTION


def texts(command: str) -> frozenset[str]:
    """Settings whose values are names and paths, or lists of them."""
    return frozenset(setting.key for setting in _settings.settings_of(_commands.record_of(command)) if setting.is_text)


NUMBERED = frozenset({"trainer.devices"})
"""Settings for which ``0,1`` is a list, as for Lightning, and no sweep unless ``-m`` says so."""


def listed(command: str) -> frozenset[str]:
    """Settings for which ``A,B`` is a list of paths, and no sweep unless ``-m`` says so."""
    lists = {"report": {"run"}, "bundle": {"model"}, "compare": {"runs", "metric", "comparison.metric"}}
    return frozenset(lists.get(command, ()))


def taken_as_typed(command: str) -> frozenset[str]:
    """Settings whose value is one text, whatever signs are in it. In a name a comma parts two, see `NAME_KEYS`."""
    lists = {setting.key for setting in _settings.settings_of(_commands.record_of(command)) if setting.is_list}
    return (texts(command) - lists - {*NAME_KEYS}) | {"input"}  # mostly one folder, and seldom a list


def paths(command: str) -> frozenset[str]:
    """Settings whose values are files and folders."""
    return frozenset(setting.key for setting in _settings.settings_of(_commands.record_of(command)) if setting.is_path)
