"""What a command line composes, looked at before anything is done: every setting is heard, or refused.

Hydra passes over an ``optional`` default that is not there, and takes any key that a file or a ``+`` brings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from segflow.apps import _command_line, _known, _messages, _shipped, _sweep
from segflow.core.errors import SegflowError

USER_CONF = "SEGFLOW_CONF"


@dataclass(frozen=True, slots=True)
class TextOverride:
    """One ``KEY=VALUE`` of the command line."""

    text: str

    @property
    def key(self) -> str:
        """The key, without Hydra's marks."""
        return self.text.split("=", 1)[0].lstrip("+~").split("@")[0]

    def is_group(self, folders: Sequence[Path]) -> bool:
        """Whether it chooses an option of a group."""
        return any((folder / self.key).is_dir() for folder in folders)


class UserFolders(SearchPathPlugin):
    """The folders of ``SEGFLOW_CONF`` come first, so that a user's file wins over the shipped one of that name."""

    config_dirs: Sequence[str] = ()
    """Of ``--config-dir``, while this module composes by itself; Hydra adds them in a run."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra before it composes."""
        for folder in reversed(_of_environment()):
            search_path.prepend(provider=USER_CONF, path=f"file://{Path(folder).resolve()}")
        for folder in self.config_dirs:
            path = f"file://{Path(folder).resolve()}"
            search_path.prepend(provider="command-line", path=path, anchor=SearchPathQuery(provider="schema"))


def user_folders(arguments: Sequence[str]) -> list[Path]:
    """Folders of configuration of the user's own.

    Raises:
        SegflowError: One of them is no folder.
    """
    flags, _ = _command_line.split(arguments)
    named = {USER_CONF: _of_environment(), "--config-dir": _command_line.values_of("--config-dir", flags)}
    for source, folders in named.items():
        for folder in folders:
            if not Path(folder).is_dir():
                raise SegflowError(f"{source}: there is no folder {folder}")
    return [Path(folder) for folders in named.values() for folder in folders]


def _of_environment() -> list[str]:
    return [folder for folder in os.environ.get(USER_CONF, "").split(os.pathsep) if folder]


def register() -> None:
    """Tell Hydra of the user's folders, and OmegaConf of names of swept values."""
    Plugins.instance().register(UserFolders)
    OmegaConf.register_new_resolver(_sweep.SWEPT, _sweep.swept_value, replace=True)


def checked(command: str, arguments: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The arguments of a command, once all that they compose is known to be heard.

    Args:
        command: Name of the command.
        arguments: As Hydra will see them.
        folders: Folders of configuration, the shipped one first.

    Returns:
        The same; of a sweep whose jobs would train in one folder, with a run name that tells them apart.

    Raises:
        SegflowError: A preset, an option or a setting does not exist or has a value of the wrong kind, or jobs of a
            sweep would write over each other's results.
    """
    flags, overrides = _command_line.split(arguments)
    if _command_line.only_shows(flags):
        return list(arguments)
    name = [command, *_command_line.values_of("--config-name", flags)][-1]
    path = Path([str(folders[0]), *_command_line.values_of("--config-path", flags)][-1]).resolve()
    UserFolders.config_dirs = _command_line.values_of("--config-dir", flags)
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(path), version_base="1.3"):
            _check_added_groups(overrides, command, folders)
            sweep = _sweep.read(name, overrides, folders, "-m" in flags or "--multirun" in flags)
            for config in sweep.configs:
                _check_options(config)
                plain = OmegaConf.to_container(config)
                _known.check_keys({k: v for k, v in plain.items() if k != "hydra"}, command, folders)  # type: ignore[union-attr,misc]
            _check_kinds(sweep, name, folders)
            renamed, names = sweep.told_apart(command, overrides)
    finally:
        UserFolders.config_dirs = ()
        HydraConfig.instance().cfg = None
    if names:
        sys.stderr.write(f"segflow {command}: each job has a run of its own, run_name={', '.join(names)}\n")
    return [*flags, *renamed]


def _check_options(config: DictConfig) -> None:
    """Refuse an option that is not there, which Hydra passes over where a defaults list calls it ``optional``."""
    loader = GlobalHydra.instance().config_loader()
    for key, choice in config.hydra.runtime.choices.items():
        group = key.split("@")[0]
        for option in [choice] if isinstance(choice, str) else choice or []:
            inner, _, file = f"{group}/{option}".rpartition("/")
            known = loader.get_group_options(inner)
            if file.removesuffix(".yaml") not in known:
                raise SegflowError(_messages.no_option(inner, file, known))


def _check_added_groups(overrides: Sequence[str], command: str, folders: Sequence[Path]) -> None:
    """Refuse a shipped group that the command does not have; nothing would read what ``+`` adds."""
    has = dict(_shipped.groups_of(command, folders[0]))
    for override in map(TextOverride, overrides):
        if override.text.startswith("+") and override.is_group(folders[:1]) and override.key not in has:
            raise SegflowError(
                f"there is no group '{override.key}'", found=override.text, expected=", ".join(sorted(has))
            )


def _check_kinds(sweep: _sweep.Sweep, name: str, folders: Sequence[Path]) -> None:
    """Refuse a word where the shipped value is a number, and the like: not every node has a schema."""
    overrides = [o for o in map(TextOverride, sweep.overrides) if not o.key.startswith("hydra")]
    groups = [o for o in overrides if o.is_group(folders)]
    if len(groups) == len(overrides) and not sweep.values:
        return
    shipped = compose(name, [o.text for o in groups])
    given = {o.key: [OmegaConf.select(sweep.configs[0], o.key)] for o in overrides if o not in groups}
    for key, values in {**given, **sweep.values}.items():
        before = OmegaConf.select(shipped, key, default=None)
        for now in values if before is not None else []:
            if not _same_kind(before, now):
                raise SegflowError(
                    f"setting '{key}' has the wrong type",
                    found=_as_yaml(now),
                    expected=f"a value like {_as_yaml(before)}",
                )


def _same_kind(before: Any, now: Any) -> bool:
    if now is None or isinstance(before, str):
        return True
    if isinstance(before, bool) or isinstance(now, bool):
        return isinstance(before, bool) and isinstance(now, bool)
    if isinstance(before, int | float):
        return isinstance(now, int | float)
    return _is_list(before) == _is_list(now) and _is_mapping(before) == _is_mapping(now)


def _as_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) or OmegaConf.is_list(value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) or OmegaConf.is_dict(value)
