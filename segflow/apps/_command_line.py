"""From a typed command line to one that Hydra accepts. Idempotent, since Lightning starts ranks with the result.

- Flags may stand anywhere (argparse wants them together).
- ``fold=0``: Hydra refuses a number as an option of a group, but accepts a quoted one.
- ``fold=7``: splits may have more folds than the group has options.
- ``run_name=2024``: always a name.
- ``fold=glob(*)``: expanded here, since Hydra globs before it knows quoted options.
- ``input=/data/a b=(1).nii.gz``: paths with characters of Hydra's grammar are quoted.
- ``dataset=Dataset004_Hippocampus``, ``dataset=4``, ``dataset=/data/Dataset004_Hippocampus``: a folder of
  ``paths.raw``, or any other, without a YAML of its own.
- ``report run=A,B``: several runs are a list.
- ``verbose=true``: every setting gets the mark ``++``, which Hydra accepts for existing and new keys. The record of the
  command's settings refuses unknown keys.
- ``predict … part=0/4``: settings of a command's only section, without its name.
- ``+experiment=fine_tune``: a group of the command is chosen, not added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from segflow.apps import _catalogue, _shipped
from segflow.apps._commands import record_of
from segflow.apps._flags import SHOWS, WITH_VALUE, check_flags
from segflow.apps._settings import settings_of
from segflow.core.command_line import quoted
from segflow.core.errors import SegflowError
from segflow.core.names import is_number

_OVERRIDE = re.compile(r"^(?P<mark>~|\+\+?)?(?P<key>[\w./@:-]+?)=(?P<value>.*)$", re.DOTALL)
_SPECIAL = re.compile(r"[^\w./@+$-]", re.ASCII)
_NO_TEXT = re.compile(r"[+-]?[\d.][\d._]*(e[+-]?\d+)?|[+-]?(inf|nan)|true|false", re.IGNORECASE)
_TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|.""", re.DOTALL)
_FUNCTION = re.compile(r"(range|choice|glob|interval|shuffle|sort|tag)\(")
_DATASET = re.compile(r"^(\d+|Dataset\d{3,}(_[^,]+)?)$")


def rewrite(command: str, arguments: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The arguments for Hydra: flags first, then overrides.

    Args:
        command: Name of the command.
        arguments: Arguments as typed.
        folders: Folders of configuration, with the user's.
    """
    flags, overrides = split(arguments)
    check_flags(command, flags)
    multirun = any(flag in ("-m", "--multirun") for flag in flags)
    result: list[str] = []
    short = _short_names(command)
    groups = {name for name, _ in _shipped.groups_of(command, folders[0])}
    texts, whole_ones = _catalogue.texts(command), _catalogue.taken_as_typed(command)
    listed = _catalogue.listed(command) if not multirun else frozenset()
    for argument in overrides:
        key = key_of(argument)
        whole = argument
        if key in short and argument.lstrip("+~").startswith(key):
            whole = argument.replace(key, short[key], 1)
        if key in groups and "@" not in whole.partition("=")[0]:
            whole = whole.lstrip("+")
        if key in listed:
            whole = _as_list(whole)
        result.extend(_marked(one, folders) for one in _rewrite_one(whole, folders, multirun, texts, whole_ones))
    return flags + result


def _marked(argument: str, folders: Sequence[Path]) -> str:
    """A setting with the mark ``++``. Groups, Hydra's own settings and marked ones stay as they are."""
    key = key_of(argument)
    left = not key or argument[0] in "+~" or re.split(r"[./]", key)[0] == "hydra" or "@" in argument.partition("=")[0]
    return argument if left or any((folder / key).is_dir() for folder in folders) else f"++{argument}"


def unmarked(override: str) -> str:
    """An override as a person would type it."""
    return override.lstrip("+")


def config_flags(arguments: Sequence[str]) -> list[str]:
    """The flags that choose the configuration and its folders, each as one word."""
    flags, _ = split(arguments)
    names = ("--config-dir", "--config-path", "--config-name")
    return [f"{name}={value}" for name in names for value in values_of(name, flags)]


def values_of(name: str, flags: Sequence[str]) -> list[str]:
    """All values that were given with a flag, in either form."""
    values: list[str] = []
    for position, flag in enumerate(flags):
        form, equals, value = flag.partition("=")
        if form in (name, WITH_VALUE[name]):
            values += [value] if equals else flags[position + 1 : position + 2]
    return values


def only_shows(flags: Sequence[str]) -> bool:
    """Whether Hydra is asked for a text that needs no composed configuration."""
    return any(flag.partition("=")[0] in SHOWS for flag in flags)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    takes_value = {form for pair in WITH_VALUE.items() for form in pair if form}
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in takes_value and rest and (rest[0][:1] in "/.~" or not re.match("-|.*=", rest[0])):
            flags.append(rest.pop(0))
    return flags, overrides


def _short_names(command: str) -> dict[str, str]:
    """``part`` → ``inference.part``, for settings of the command's section whose names are free."""
    record = record_of(command)
    section = f"{record.SECTION}."
    if section == ".":
        return {}
    keys = [setting.key for setting in settings_of(record)]
    own = {key.partition(".")[0] for key in keys}
    inside = {key.removeprefix(section).partition(".")[0] for key in keys if key.startswith(section)}
    return {name: f"{section}{name}" for name in inside - own}


def key_of(argument: str) -> str:
    """The key of ``KEY=VALUE``, without Hydra's marks and package; empty where it is none."""
    match = _OVERRIDE.match(argument)
    return match["key"].split("@")[0] if match else ""


def _rewrite_one(
    argument: str, folders: Sequence[Path], multirun: bool, texts: frozenset[str], whole: frozenset[str]
) -> list[str]:
    match = _OVERRIDE.match(argument)
    if not match:
        return [argument]
    key, value = key_of(argument), match["value"]
    head = argument[: len(argument) - len(value)]
    if any((folder / key).is_dir() for folder in folders):
        names = _shipped.options(key, folders)
        return _rewrite_group(head, key, _globbed(value, names) if multirun else value, names, multirun)
    if key in _catalogue.NUMBERED and not multirun and re.fullmatch(r"\d+,(\d+(,\d+)*)?", value):
        return [f"{head}[{value.removesuffix(',')}]"]
    if (key in texts or key.rpartition(".")[0] in texts) and not (multirun and _FUNCTION.match(value)):
        several = multirun or key not in whole
        return [head + ",".join(map(_quote_text, split_values(value) if several else [value]))]
    return [argument]


def _as_list(argument: str) -> str:
    """``KEY=A,B`` as ``KEY=[A,B]``, unless there is a file of that very name."""
    key, _, value = argument.partition("=")
    parts = split_values(value)
    if len(parts) < 2 or Path(value).exists():
        return argument
    return f"{key}=[{','.join(map(_quote_text, parts))}]"


def _globbed(value: str, names: Sequence[str]) -> str:
    """``glob(*)`` as the options that it matches."""
    glob = re.fullmatch(r"glob\((.+)\)", value)
    if not glob:
        return value
    patterns = [pattern.strip("[]' \"") for pattern in glob[1].split(",")]
    return ",".join(name for name in names if any(fnmatch(name, pattern) for pattern in patterns))


def _rewrite_group(head: str, key: str, value: str, names: Sequence[str], multirun: bool) -> list[str]:
    """``GROUP=OPTION``; a dataset need not be an option: its number, name or folder is a setting of ``raw``."""
    if value in ("null", ""):
        if "none" not in names:
            raise SegflowError(f"'{key}' needs one of its options", found=head + value, expected=", ".join(names))
        return [f"{head}none"]
    parts = split_values(value) if multirun else [value]
    if key == "dataset" and not set(parts) & set(names):
        if all(_DATASET.match(part) for part in parts):
            return [f"{head}raw", f"dataset.name={','.join(map(_quote, parts))}"]
        if all("/" in part for part in parts):
            return [f"{head}raw", f"dataset.path={','.join(map(_quote, parts))}"]
    if key == "fold" and set(parts) - set(names) and all(map(is_number, parts)):  # more folds than there are options
        return [f"fold.index={','.join(parts)}"]
    return [head + ",".join(_quote(v) if v.strip().isdigit() else v for v in split_values(value))]


def split_values(value: str) -> list[str]:
    """The values of a sweep. Commas within quotes, brackets and braces do not separate."""
    parts = [""]
    depth = 0
    for token in _TOKEN.findall(value):
        depth += (token in "([{") - (token in ")]}")
        if token == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def _quote(value: str) -> str:
    return value if value.strip()[:1] in ("'", '"') else quoted(value.strip())


def _quote_text(value: str) -> str:
    braced = value[:1] == "{" and value[-1:] == "}"
    if value[:1] in ("", "'", '"', "[") or braced or "${" in value:
        return value
    return quoted(value) if _SPECIAL.search(value) or _NO_TEXT.fullmatch(value) else value
