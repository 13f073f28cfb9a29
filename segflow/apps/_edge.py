"""Where Hydra ends: finding conf/, starting a command, and turning config nodes into settings and objects.

No other room knows Hydra or OmegaConf. See ``_command_line.py`` for what happens to the arguments before Hydra sees
them, and ``_messages.py`` for the wording of errors.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from segflow.apps import _command_line, _messages
from segflow.core.errors import SegflowError

Settings = TypeVar("Settings")
USER_CONF = "SEGFLOW_CONF"
FULL_ERROR = "HYDRA_FULL_ERROR"

logger = logging.getLogger(__name__)


def config_dir() -> Path:
    """The shipped configuration: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise SegflowError(f"the installation of segflow in {package} has no conf/", fix="Install it again.")


class UserConfiguration(SearchPathPlugin):
    """Puts the folders of ``SEGFLOW_CONF`` first, so that a user's file wins over the shipped one of that name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra before it composes."""
        for folder in reversed(os.environ.get(USER_CONF, "").split(os.pathsep)):
            if folder:
                search_path.prepend(provider=USER_CONF, path=f"file://{Path(folder).resolve()}")


def start(command: str, job: Callable[[DictConfig], None], arguments: list[str]) -> None:
    """Compose the configuration of a command and run its job.

    Args:
        command: Name of the command; ``conf/<command>.yaml`` is its table of contents.
        job: What to run with the composed configuration.
        arguments: What the user typed behind the command.

    Raises:
        SystemExit: With code 2 for a command line that does not compose, 1 for a job that failed, and with one
            message on stderr; the traceback is shown where ``HYDRA_FULL_ERROR=1``.
    """
    show_traceback = os.environ.get(FULL_ERROR, "") not in ("", "0")
    folders = [config_dir(), *(Path(f) for f in os.environ.get(USER_CONF, "").split(os.pathsep) if f)]
    if os.getcwd() not in sys.path:  # a console script does not see user code in the current folder by itself
        sys.path.insert(0, os.getcwd())
    _register()
    try:
        sys.argv = [sys.argv[0], *_command_line.rewrite(command, arguments, folders)]
        os.environ[FULL_ERROR] = "1"  # Hydra then raises where it would print and exit
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)(job)()
    except (KeyboardInterrupt, BrokenPipeError):
        raise SystemExit(130) from None
    except Exception as error:
        if show_traceback:
            raise
        message, code = _messages.explain(error, folders)
        sys.stderr.write(f"segflow {command}: {message}\n")
        logger.debug("traceback", exc_info=True)
        raise SystemExit(code) from None


def _register() -> None:
    Plugins.instance().register(UserConfiguration)
    OmegaConf.register_new_resolver("dataset_name", dataset_name, replace=True)


def dataset_name(path: str | None, name: str | None) -> str:
    """Name of the dataset's folders: that of ``dataset.path`` where it is given, else ``dataset.name``."""
    return Path(path).expanduser().resolve().name if path else str(name)


def read(settings: type[Settings], node: Any) -> Settings:
    """Check a config node against a settings class and build it.

    Raises:
        SegflowError: A key is unknown or a value has the wrong type or range.
    """
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(settings), plain or {}))  # type: ignore[return-value]


def build(node: Any, *positional: Any, **keywords: Any) -> Any:
    """Build the object (or the partial) that a node's ``_target_`` names."""
    return hydra.utils.instantiate(node, *positional, **keywords)


def plain(node: Any) -> dict[str, Any]:
    """A config node as plain JSON-able values, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True, enum_to_str=True)  # type: ignore[return-value]


def yaml_text(node: Any) -> str:
    """A config node as YAML, interpolations resolved."""
    return OmegaConf.to_yaml(node, resolve=True)


def task_overrides() -> list[str]:
    """The overrides that this job was started with."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def choices() -> Mapping[str, str]:
    """Group → option that was chosen."""
    return dict(HydraConfig.get().runtime.choices) if HydraConfig.initialized() else {}
