"""Messages of one line for mistakes in command lines and configurations, with the nearest valid choice.

Texts of Hydra and OmegaConf are matched only here. They are not an interface, so tests check every sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import requires
from pathlib import Path

import yaml
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from segflow.apps import _shipped
from segflow.apps._commands import record_of
from segflow.apps._first_words import CommandLineError
from segflow.apps._parts import SettingError
from segflow.apps._read_settings import nearest
from segflow.apps._settings import sections_of, settings_of
from segflow.core.errors import SegflowError
from segflow.core.system_errors import system_error

SEE_MORE = "HYDRA_FULL_ERROR=1 shows where it comes from."


def explain(error: BaseException, folders: Sequence[Path], command: str) -> tuple[str, int]:
    """The message for a user, and the exit code: 2 for a command line or configuration, 1 for a failed job."""
    if isinstance(error, SegflowError):
        return str(error), 2 if isinstance(error, CommandLineError | SettingError) else 1
    if isinstance(error, MissingConfigException):
        return _missing(str(error), folders), 2
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read the argument '{error.override}'; write KEY=VALUE, and quote special characters: \"KEY='a b'\""
            f"{_setting_for(error.override, folders)}",
            2,
        )
    if isinstance(error, InstantiationException):
        cause = error.__cause__
        if isinstance(cause, SegflowError):
            return _with_key(str(error), str(cause)), 1
        missing = re.search(r"ModuleNotFoundError\(\"No module named '([\w.]+)'", str(cause))
        if missing:
            return _no_module(missing[1]), 1
        return f"{str(error).splitlines()[0]}{f': {cause}' if cause else ''}", 1
    if isinstance(error, yaml.YAMLError):
        return f"a configuration file is not valid YAML: {' '.join(str(error).split())}", 2
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _composition(error, folders, command), 2
    if isinstance(error, OSError) and error.errno:
        refused = system_error(error)
        return str(refused) if refused.fix else f"{refused}. {SEE_MORE}", 1
    return f"{type(error).__name__}: {error}. {SEE_MORE}", 1


def _with_key(where: str, message: str) -> str:
    """A part's message with the key of its entry in place of its class, which several entries may have."""
    found = re.search(r"call to target '(?:[\w.]*\.)?(\w+)'.*full_key: (\S+)", where, re.DOTALL)
    if found and message.startswith(f"{found[1]}."):
        return found[2] + message.removeprefix(found[1])
    return message


def _no_module(name: str) -> str:
    """Advice for a `_target_` whose module is not installed: an extra of segflow, if one installs it."""
    package = name.split(".")[0].replace("_", "-").lower()
    extras = (re.match(rf"{package}\b.*extra == .(\w+)", text, re.IGNORECASE) for text in requires("segflow") or [])
    extra = next((match[1] for match in extras if match), None)
    fix = f"pip install segflow[{extra}]" if extra else "Install the package that has it, or correct the _target_."
    return f"there is no module '{name}'. {fix}"


def _meant(wanted: str, known: Sequence[str]) -> str:
    near = nearest(wanted, known)
    return f" {near}" if near else ""


def _setting_for(word: str | None, folders: Sequence[Path]) -> str:
    """The setting that a bare word probably means, as in nnU-Net's ``train 4 3d_fullres 0``."""
    if word and (word.isdigit() or re.match(r"Dataset\d", word)):
        return f". Did you mean 'dataset={word}'?"
    groups = sorted({child.name for folder in folders for child in folder.iterdir() if child.is_dir()})
    meant = [f"'{group}={word}'" for group in groups if word in _shipped.options(group, folders)]
    return f". Did you mean {' or '.join(meant)}?" if meant else ""


def _missing(text: str, folders: Sequence[Path]) -> str:
    match = re.search(r"Could not find '([\w/.-]+)'", text) or re.search(r"Could not load '([\w/.-]+)'", text)
    if not match:
        return " ".join(text.split())
    group, _, option = match[1].rpartition("/")
    return no_option(group, option, _shipped.options(group, folders))


def no_option(group: str, option: str, known: Sequence[str]) -> str:
    """Message about an option that a group does not have."""
    there = f"; there are: {', '.join(known)}." if known else "."
    return f"there is no '{option}' for '{group}'{there}{_alike(option, known)}"


def _alike(option: str, known: Sequence[str]) -> str:
    """The options that contain a name, such as ``3d``; else the nearest one."""
    lower = option.lower()
    rest = sorted(known, key=len)
    for fits in (str.__eq__, str.startswith, str.__contains__):
        if found := [name for name in rest if lower and fits(name.lower(), lower)]:
            return f" Did you mean {' or '.join(map(repr, found[:3]))}?"
    return _meant(option, known)


def _composition(error: BaseException, folders: Sequence[Path], command: str) -> str:
    chain = list(_chain(error))
    text = "\n".join(str(e) for e in chain)
    key = next((e.full_key for e in chain if isinstance(e, OmegaConfBaseException) and e.full_key), None)
    several = re.search(r"Ambiguous value for argument '\+*([^=]+)=(.+?)'", text)
    if several:
        return (
            f"'{several[1]}' has several values; -m runs one after another, and a list is {several[1]}=[{several[2]}]"
        )
    override = re.search(r"Could not (?:override|append|delete) (?:to config\. |from config\. )?'?([\w./@-]+)'?", text)
    if missing := _missing_key(text, override[1] if override else None, key, known_keys(folders, command)):
        return missing
    added = re.search(r"An item is already at '([^']+)'", text)
    if added:
        return f"'{added[1]}' is there already: without + it is set"
    if override and "Multiple values" not in text:
        return f"cannot set '{override[1]}': {' '.join(text.split())}"
    where = f"setting '{key}': " if key else ""
    variable = re.search(r"Environment variable '([^']+)' not found", text)
    if variable:
        return (
            f"{where}the environment variable {variable[1]} is not set; ${{oc.env:{variable[1]},VALUE}} has a default"
        )
    if re.search("Cannot merge (DictConfig with ListConfig|incompatible container types)", text):
        return f"{where}a list cannot take the place of a mapping, as augmentation.steps is: NAME: {{_target_: …}}"
    first = next((str(e).splitlines()[0] for e in reversed(chain) if str(e)), type(error).__name__)
    return f"{where}{first}"


def _missing_key(text: str, typed: str | None, key: str | None, known: Sequence[str]) -> str:
    """What to say of a key or group that is not there; empty where that is not what Hydra complains of."""
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '(\w+)')", text)
    if unknown:
        name = typed or key or unknown[1]
        if any(other.startswith(f"{name}.") for other in known):
            return f"setting '{name}' cannot be set as a whole; set its parts one by one, as {name}.PART=VALUE"
        return f"there is no setting '{name}'.{_meant(name, known)}"
    group = re.search(r"Could not override '([\w/]+)'\.\s*No match in the defaults list", text)
    if group:
        return f"there is no group '{group[1]}'.{_meant(group[1], known)}"
    return f"there is no setting '{typed}'.{_meant(typed, known)}" if typed and "does not exist" in text else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def known_keys(folders: Sequence[Path], command: str) -> list[str]:
    """All groups, sections and settings of a command."""
    record = record_of(command)
    groups = [name for name, _ in _shipped.groups_of(command, folders[0])]
    return sorted({*groups, *sections_of(record), *(setting.key for setting in settings_of(record))})
