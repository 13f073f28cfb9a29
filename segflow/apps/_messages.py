"""Messages of one line for mistakes in command lines and configurations, with the nearest valid choice."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from segflow.apps import _shipped
from segflow.apps._commands import record_of
from segflow.apps._first_words import CommandLineError
from segflow.apps._parts import SettingError, no_module
from segflow.apps._read_settings import nearest
from segflow.apps._settings import sections_of, settings_of
from segflow.core.errors import SegflowError
from segflow.core.system_errors import system_error

SEE_MORE = "HYDRA_FULL_ERROR=1 shows where it comes from."


def explain(error: BaseException, folders: Sequence[Path], command: str) -> tuple[str, int]:
    """The message for a user, and the exit code: 2 for a command line or configuration, 1 for a failed job."""
    if isinstance(error, SegflowError):
        return str(error), 2 if isinstance(error, CommandLineError | SettingError) else 1
    if isinstance(error, yaml.YAMLError):
        return f"a configuration file is not valid YAML: {' '.join(str(error).split())}", 2
    if told := _of_hydra(error, folders, command):
        return told, 2
    if isinstance(error, ModuleNotFoundError) and error.name:
        return str(no_module(error.name)), 1
    if isinstance(error, OSError) and error.errno:
        refused = system_error(error)
        return str(refused) if refused.fix else f"{refused}. {SEE_MORE}", 1
    return f"{type(error).__name__}: {error}. {SEE_MORE}", 1


def _of_hydra(error: BaseException, folders: Sequence[Path], command: str) -> str | None:
    """The message for an error of Hydra's, which only comes where it is loaded."""
    if "hydra" not in sys.modules:
        return None
    from segflow.apps._hydra_messages import explained

    return explained(error, folders, command)


def unreadable(word: str, folders: Sequence[Path]) -> str:
    """Message about an argument that cannot be read."""
    return (
        f"cannot read the argument '{word}'; write KEY=VALUE, and quote special characters: \"KEY='a b'\""
        f"{_setting_for(word, folders)}"
    )


def meant(wanted: str, known: Sequence[str]) -> str:
    """Advice with the nearest known name, behind a space; empty without one."""
    near = nearest(wanted, known)
    return f" {near}" if near else ""


def _setting_for(word: str | None, folders: Sequence[Path]) -> str:
    """The setting that a bare word probably means, as in nnU-Net's ``train 4 3d_fullres 0``."""
    if word and (word.isdigit() or re.match(r"Dataset\d", word)):
        return f". Did you mean 'dataset={word}'?"
    groups = sorted({child.name for folder in folders for child in folder.iterdir() if child.is_dir()})
    meant = [f"'{group}={word}'" for group in groups if word in _shipped.options(group, folders)]
    return f". Did you mean {' or '.join(meant)}?" if meant else ""


def no_group(group: str, known: Sequence[str]) -> str:
    """Message about a group that a command does not have."""
    return f"there is no group '{group}'.{meant(group, known)}"


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
    return meant(option, known)


def known_keys(folders: Sequence[Path], command: str) -> list[str]:
    """All groups, sections and settings of a command."""
    record = record_of(command)
    groups = [name for name, _ in _shipped.groups_of(command, folders[0])]
    return sorted({*groups, *sections_of(record), *(setting.key for setting in settings_of(record))})
