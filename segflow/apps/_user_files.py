"""Folders of a user's own configuration, and which of their files has an unknown setting."""

from __future__ import annotations

import filecmp
import re
from collections.abc import Sequence
from pathlib import Path

from segflow.apps import _command_line, _shipped
from segflow.apps._parts import SettingError
from segflow.core.errors import SegflowError

GLOBAL = "# @package _global_"
"""First line of a file with top-level keys, such as a preset."""


def user_folders(arguments: Sequence[str]) -> list[Path]:
    """The user's own folders of configuration.

    Args:
        arguments: Arguments of a command as typed.

    Raises:
        SegflowError: One of them is not a folder, or one of ``--config-dir`` has a file that would not be taken.
    """
    flags, _ = _command_line.split(arguments)
    of_flags = map(Path, _command_line.values_of("--config-dir", flags))
    named = {_shipped.USER_CONF: _shipped.folders_of_environment(), "--config-dir": list(of_flags)}
    for source, folders in named.items():
        for folder in folders:
            if not folder.is_dir():
                raise SegflowError(f"{source}: there is no folder {folder}")
    first = {folder.resolve() for folder in named[_shipped.USER_CONF]}
    for folder in named["--config-dir"]:
        if folder.resolve() not in first:
            _refuse_shipped_names(folder)
    return [folder for folders in named.values() for folder in folders]


def _refuse_shipped_names(folder: Path) -> None:
    """Hydra looks into the folders of ``--config-dir`` last, so that a shipped file of the same name would be taken."""
    shipped = _shipped.config_dir()
    for file in sorted(shipped.rglob("*.yaml")):
        name = file.relative_to(shipped)
        if (folder / name).is_file() and not filecmp.cmp(folder / name, file, shallow=False):
            raise SegflowError(
                f"--config-dir: {folder / name} has the name of a shipped file, which would be taken in its place",
                fix=f"Give it another name, or set {_shipped.USER_CONF}={folder}, with which it replaces the other.",
            )


def told(error: SettingError, command: str, folders: Sequence[Path]) -> SettingError:
    """The error for an unknown key with the user's file that has it; any other error as it is."""
    key = re.match(r"there is no setting '([\w.@/-]+)'", error.problem)
    if key is None:
        return error
    if key[1] in dict(_shipped.groups_of(command, folders[0])):
        problem, fix = f"the file for '{key[1]}' sets nothing", f"Its first line must be: {GLOBAL}"
        return SettingError(problem, fix=fix)
    files = [str(file) for folder in folders[1:] for file in _with_key(folder, key[1].rpartition(".")[2])]
    found = ", ".join(files) or None
    return SettingError(error.problem, found=found, expected=error.expected, fix=error.fix)


def _with_key(folder: Path, key: str) -> list[Path]:
    """Files of a user's folder that have a key of this name."""
    line = re.compile(rf"^\s*['\"]?{re.escape(key)}['\"]?\s*:", re.MULTILINE)
    files = sorted(folder.rglob("*.yaml"))
    return [file for file in files if line.search(file.read_text(encoding="utf-8", errors="replace"))]
