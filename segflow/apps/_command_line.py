"""What a person types → what Hydra accepts. Idempotent, since Lightning starts the ranks of a run with the result.

- Flags may stand anywhere (argparse wants them together).
- ``fold=0``: Hydra refuses a number for a group's option but takes a quoted one.
- ``run_name=2024``: a name, whatever it looks like.
- ``fold=glob(*)``: expanded here, since Hydra globs before it knows quoted options.
- ``input=/data/a b=(1).nii.gz``: plain paths with signs of Hydra's grammar are quoted.
- ``dataset=Dataset004_Hippocampus``, ``dataset=4``, ``dataset=/data/Dataset004_Hippocampus``: a folder of
  ``paths.raw``, or any other, without a YAML of its own.
- ``training.lr_factors={encoder.*:0.1}``: keys of the user's own are added, which Hydra wants marked.
- ``predict … part=0/4``: settings of the one section that a command has, without its name.
- ``+experiment=fine_tune``: a group that the command has is chosen, not added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from segflow.apps import _shipped
from segflow.apps._flags import SHOWS, WITH_VALUE, check_flags
from segflow.core.command_line import quoted
from segflow.core.errors import SegflowError

PATH_KEYS = (
    "choice", "labels", "model", "input", "output", "prediction", "reference", "run", "source",
    "from_fingerprint", "dataset.path", "fold.file", "fold.group_by", "paths.*", "training.initial_weights",
    "inference.previous_stage", "inference.previous_stage_predictions",
)  # fmt: skip
NAME_KEYS = ("run_name", "previous_run_name", "plans", "planner.plans_name")
OPEN_MAPPINGS = ("training.lr_factors", "sampling.class_weights", "callbacks")
"""Settings whose keys are the user's own; they are shipped empty."""

TRAINING_COMMANDS = ("train", "run", "demo")

SECTIONS = {
    "preprocess": "preprocessing",
    "predict": "inference",
    "evaluate": "evaluation",
    "postprocess": "postprocessing",
    "select": "selection",
    "bundle": "bundle",
}
"""Command → the section that its settings stand in."""

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
        arguments: As typed.
        folders: Folders of configuration, the user's included.
    """
    flags, overrides = split(arguments)
    check_flags(command, flags)
    multirun = any(flag in ("-m", "--multirun") for flag in flags)
    result: list[str] = []
    short = _short_names(command, folders)
    groups = {name for name, _ in _shipped.groups_of(command, folders[0])}
    for argument in overrides:
        key = _key(argument)
        whole = f"{short[key]}{argument[len(key) :]}" if key in short and argument.startswith(key) else argument
        if command in TRAINING_COMMANDS and argument.startswith(OPEN_MAPPINGS) and _is_open(key):
            whole = f"++{whole}"
        if key in groups and "@" not in whole.partition("=")[0]:
            whole = whole.lstrip("+")
        result.extend(_rewrite_one(whole, multirun, folders))
    return flags + result


def config_flags(arguments: Sequence[str]) -> list[str]:
    """The flags among arguments that say which configuration is composed and where it lies, each as one word."""
    flags, _ = split(arguments)
    names = ("--config-dir", "--config-path", "--config-name")
    return [f"{name}={value}" for name in names for value in values_of(name, flags)]


def values_of(name: str, flags: Sequence[str]) -> list[str]:
    """What was given with a flag, in either form and every time."""
    values = []
    for position, flag in enumerate(flags):
        form, equals, value = flag.partition("=")
        if form in (name, WITH_VALUE[name]):
            values += [value] if equals else flags[position + 1 : position + 2]
    return values


def only_shows(flags: Sequence[str]) -> bool:
    """Whether Hydra is asked for a text that no configuration is composed for."""
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


def _is_open(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in OPEN_MAPPINGS)


def _short_names(command: str, folders: Sequence[Path]) -> dict[str, str]:
    """``part`` → ``inference.part``: settings of the command's section whose names the command has no use for."""
    section = SECTIONS.get(command)
    if section is None:
        return {}
    own = _shipped.content(folders[0] / f"{command}.yaml")
    inside = set(own.get(section) or ())
    for folder in folders:
        for file in (folder / section).glob("*.yaml"):
            inside |= _shipped.content(file).keys()
    return {name: f"{section}.{name}" for name in inside - own.keys()}


def _key(argument: str) -> str:
    match = _OVERRIDE.match(argument)
    return match["key"].split("@")[0] if match else ""


def _rewrite_one(argument: str, multirun: bool, folders: Sequence[Path]) -> list[str]:
    match = _OVERRIDE.match(argument)
    if not match:
        return [argument]
    key, value = _key(argument), match["value"]
    head = argument[: len(argument) - len(value)]
    if any((folder / key).is_dir() for folder in folders):
        names = _shipped.options(key, folders)
        if multirun and (glob := re.fullmatch(r"glob\((.+)\)", value)):
            patterns = [p.strip("[]' \"") for p in glob[1].split(",")]
            value = ",".join(name for name in names if any(fnmatch(name, p) for p in patterns))
        if value in ("null", ""):
            if "none" not in names:
                raise SegflowError(f"'{key}' needs one of its options", found=argument, expected=", ".join(names))
            return [f"{head}none"]
        parts = split_values(value) if multirun else [value]
        if key == "dataset" and not set(parts) & set(names):
            if all(_DATASET.match(part) for part in parts):
                return [f"{head}raw", f"dataset.name={','.join(map(_quote, parts))}"]
            if all("/" in part for part in parts):
                return [f"{head}raw", f"dataset.path={','.join(map(_quote, parts))}"]
        return [head + ",".join(_quote(v) if v.strip().isdigit() else v for v in split_values(value))]
    is_name = key in NAME_KEYS
    if (is_name or any(fnmatch(key, pattern) for pattern in PATH_KEYS)) and not (multirun and _FUNCTION.match(value)):
        return [head + ",".join(map(_quote_text, split_values(value) if multirun or is_name else [value]))]
    return [argument]


def split_values(value: str) -> list[str]:
    """The values of a sweep; commas within quotes, brackets and braces part nothing."""
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
    if value[:1] in ("", "'", '"', "[", "{") or "${" in value:
        return value
    return quoted(value) if _SPECIAL.search(value) or _NO_TEXT.fullmatch(value) else value
