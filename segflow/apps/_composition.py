"""Checks of the composed configuration before a command starts: every setting is used or refused.

Hydra ignores a missing ``optional`` default, and accepts any key from a file or a ``+``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import omegaconf
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from segflow.apps import (
    _command_line,
    _commands,
    _invocation,
    _messages,
    _read_settings,
    _settings,
    _shipped,
    _sweep,
    _user_files,
)
from segflow.apps._parts import SettingError
from segflow.core.errors import SegflowError

BEHAVIOUR: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""What keeps Hydra from behaving as before 1.2. From 1.4 on it needs no telling."""


class UserFolders(SearchPathPlugin):
    """Puts the folders of ``SEGFLOW_CONF`` first, so that a user's file replaces the shipped one of that name."""

    config_dirs: Sequence[str] = ()
    """Folders of ``--config-dir`` while this module composes. In a run Hydra adds them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra before it composes."""
        for folder in reversed(_shipped.folders_of_environment()):
            search_path.prepend(provider=_shipped.USER_CONF, path=f"file://{Path(folder).resolve()}")
        for name in self.config_dirs:
            path = f"file://{Path(name).resolve()}"
            search_path.prepend(provider="command-line", path=path, anchor=SearchPathQuery(provider="schema"))


def register(command: str, folders: Sequence[Path]) -> None:
    """Register what Hydra and OmegaConf need for a command.

    These are the user's folders, names of swept values, and the defaults of the records, such as ``_train``, on which
    the YAML of a command builds.
    """
    Plugins.instance().register(UserFolders)
    launchers = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    for option in _shipped.options("hydra/launcher", folders):
        launchers.pop(f"{option}.yaml", None)  # of a plugin, which would be taken for the schema of our option
    former = omegaconf.__version__.startswith("2.3.")
    add: Any = OmegaConf.register_new_resolver if former else OmegaConf.register_resolver
    add(_sweep.SWEPT, _sweep.swept_value, replace=True)
    for file in _shipped.files_of(command, folders[0]):
        if not file.stem.startswith("_"):
            defaults = _settings.defaults_of(_commands.record_of(file.stem))
            ConfigStore.instance().store(f"_{file.stem}", defaults, provider="segflow")


def record(command: str, config: DictConfig) -> Any:
    """The settings of a command as its record.

    Raises:
        SegflowError: A setting does not exist, or has a value that does not fit it.
    """
    kind = _commands.record_of(command)
    own = {str(key): config[key] for key in config if key != "hydra" and not _is_referred_to(str(key), config, kind)}
    return _read_settings.read(kind, {key: plain(value) for key, value in own.items()})


def plain(value: Any) -> Any:
    """A composed value as plain dicts and lists, with the values that it refers to."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def composed(command: str, arguments: Sequence[str], folders: Sequence[Path]) -> Any:
    """The settings of a command as its record, from arguments as Hydra takes them."""
    flags, overrides = _command_line.split(arguments)
    with _composing(command, flags, folders) as name:
        config = compose(name, list(overrides), True)
        _invocation.keep(overrides, _invocation.chosen_in(config.hydra))
        return record(command, config)


@contextmanager
def _composing(command: str, flags: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    """Set Hydra up for the folders and the file that flags name. Yields the name of the file."""
    register(command, folders)
    path = Path([str(folders[0]), *_command_line.values_of("--config-path", flags)][-1]).resolve()
    UserFolders.config_dirs = _command_line.values_of("--config-dir", flags)
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(path), **BEHAVIOUR):
            yield [command, *_command_line.values_of("--config-name", flags)][-1]
    finally:
        UserFolders.config_dirs = ()
        HydraConfig.instance().cfg = None


def checked(command: str, arguments: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Check the arguments of a command: every setting must exist and be used.

    Args:
        command: Name of the command.
        arguments: Arguments as Hydra will see them.
        folders: Folders of configuration, the shipped one first.

    Returns:
        The arguments. For a sweep whose jobs would share a folder, a run name for each job is added.

    Raises:
        SegflowError: A preset, an option or a setting does not exist or has a value of the wrong kind, or jobs of a
            sweep would write over each other's results.
    """
    flags, overrides = _command_line.split(arguments)
    if _command_line.only_shows(flags):
        register(command, folders)
        return list(arguments)
    with _composing(command, flags, folders) as name:
        _check_added_groups(overrides, command, folders)
        sweep = _sweep.read(name, overrides, folders, "-m" in flags or "--multirun" in flags)
        for config in sweep.configs:
            _check_options(config)
        for _, config in sweep.jobs():
            _check_record(command, config, folders)
        renamed, names = sweep.told_apart(command, overrides)
    if names:
        sys.stderr.write(f"segflow {command}: each job has a run of its own, run_name={', '.join(names)}\n")
    return [*flags, *renamed]


def _check_record(command: str, config: DictConfig, folders: Sequence[Path]) -> None:
    """Build the record before the command starts. The error for an unknown key names the user's file that has it."""
    try:
        record(command, config)
    except SettingError as error:
        raise _user_files.told(error, command, folders) from error


def _is_referred_to(key: str, config: DictConfig, kind: type) -> bool:
    """Whether a key is not a setting but a value that settings refer to."""
    if key in _settings.defaults_of(kind) or key in _settings.sections_of(kind):
        return False
    return bool(re.search(rf"\$\{{{re.escape(key)}[.}}\[]", OmegaConf.to_yaml(config)))


def _check_options(config: DictConfig) -> None:
    """Refuse a missing option, which Hydra ignores if a defaults list calls it ``optional``."""
    # Asked itself, the loader copies all records that are known to Hydra for each group.
    repository = GlobalHydra.instance().config_loader().repository  # type: ignore[attr-defined]
    for key, choice in config.hydra.runtime.choices.items():
        group = key.split("@")[0]
        for option in [choice] if isinstance(choice, str) else choice or []:
            inner, _, file = f"{group}/{option}".rpartition("/")
            known = repository.get_group_options(inner, ObjectType.CONFIG)
            if file.removesuffix(".yaml") not in known:
                raise SegflowError(_messages.no_option(inner, file, known))


def _check_added_groups(overrides: Sequence[str], command: str, folders: Sequence[Path]) -> None:
    """Refuse a shipped group that the command does not have, since nothing would read its settings."""
    has = dict(_shipped.groups_of(command, folders[0]))
    for override in overrides:
        key = _command_line.key_of(override)
        if override.startswith("+") and (folders[0] / key).is_dir() and key not in has:
            raise SegflowError(f"there is no group '{key}'", found=override, expected=", ".join(sorted(has)))
