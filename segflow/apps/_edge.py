"""Where Hydra ends: finding conf/, starting a command, and turning config nodes into settings and objects.

No other room knows Hydra or OmegaConf. See ``_command_line.py`` for what happens to the arguments before Hydra sees
them, and ``_messages.py`` for the wording of errors.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, ValidationError

from segflow.apps import _command_line, _composition, _first_words, _messages, _shipped
from segflow.core.errors import NoSpaceError, SegflowError

Settings = TypeVar("Settings")
FULL_ERROR = "HYDRA_FULL_ERROR"

logger = logging.getLogger(__name__)


def start(command: str, arguments: list[str]) -> None:
    """Compose the configuration of a command and run its job, ``segflow.apps.<command>.run``.

    Args:
        command: Name of the command; ``conf/<command>.yaml`` is its table of contents.
        arguments: What the user typed behind the command.

    Raises:
        SystemExit: With code 2 for a command line that does not compose, 1 for a job that failed, and with one
            message on stderr; the traceback is shown where ``HYDRA_FULL_ERROR=1``.
    """
    show_traceback = os.environ.get(FULL_ERROR, "") not in ("", "0")
    if os.getcwd() not in sys.path:  # a console script does not see user code in the current folder by itself
        sys.path.insert(0, os.getcwd())
    _composition.register()
    failures: list[tuple[str, Exception]] = []
    folders: list[Path] = []
    try:
        folders += [_shipped.config_dir(), *_composition.user_folders(arguments)]
        _first_words.check(command, arguments, folders)
        typed = _command_line.rewrite(command, arguments, folders)
        sys.argv = [sys.argv[0], *_composition.checked(command, typed, folders)]
        os.environ[FULL_ERROR] = "1"  # Hydra then raises where it would print and exit
        hydra.main(version_base="1.3", config_path=str(folders[0]), config_name=command)(
            _job(command, failures, show_traceback)
        )()
    except BrokenPipeError:
        raise SystemExit(130) from None
    except _SweepEndsError:
        pass
    except Exception as error:
        failures.append(("", error))
    for job, failure in failures:
        if show_traceback:
            raise failure
        message, code = _messages.explain(failure, folders, command)
        sys.stderr.write(f"segflow {command}{job}: {message}\n")
        logger.debug("traceback", exc_info=failure)
    if failures:
        raise SystemExit(code)


class _SweepEndsError(BaseException):
    """Passes through Hydra where the other jobs of a sweep would fail too, as on a full disk."""


def _job(command: str, failures: list[tuple[str, Exception]], show_traceback: bool) -> Callable[[DictConfig], None]:
    def run(config: DictConfig) -> None:
        own = os.environ.pop(FULL_ERROR, None)  # Hydra's alone: processes that the job starts say what the user wants
        if show_traceback:
            os.environ[FULL_ERROR] = "1"
        try:
            # Lightning's own use of torch, and its advice to reduce over the processes what is reduced already.
            for message in (".*LeafSpec.*", ".*sync_dist=True.*", ".*callbacks used to create the checkpoint.*"):
                warnings.filterwarnings("ignore", message=message)
            if config.verbose:
                logging.getLogger("segflow").setLevel(logging.DEBUG)
            # Only now: help, --cfg and every mistake in the command line answer without waiting for torch.
            importlib.import_module(f"segflow.apps.{command}").run(config)
        except NoSpaceError as error:
            failures.append(("", error))
            raise _SweepEndsError from error
        except Exception as error:
            if not HydraConfig.get().launcher._target_.endswith("BasicLauncher"):
                raise  # another process: the launcher brings the error back
            job = HydraConfig.get().job
            sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            failures.append(
                (f" {job.override_dirname}" if sweep else "", error)
            )  # a sweep goes on with its other jobs; told once, at the end
        finally:
            os.environ[FULL_ERROR] = own or "1"

    return run


def read(settings: type[Settings], node: Any) -> Settings:
    """Check a config node against a settings class and build it.

    Raises:
        SegflowError: A key is unknown or a value has the wrong type or range.
    """
    where = node._get_full_key(None) if OmegaConf.is_config(node) else ""
    values = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(settings), values or {}))  # type: ignore[return-value]
    except ConfigKeyError as error:
        raise SegflowError(
            f"there is no setting '{where}.{error.full_key}'",
            expected=", ".join(field.name for field in fields(settings)),  # type: ignore[arg-type]
        ) from error
    except (ValidationError, MissingMandatoryValue) as error:
        message = str(error).splitlines()[0]
        raise SegflowError(f"setting '{where}.{error.full_key}': {message}") from error


def several(value: Any) -> list[str]:
    """The texts of a setting that is a list, where a user may also give one by itself."""
    return [str(value)] if isinstance(value, str) else [str(text) for text in value]


def build(node: Any, *positional: Any, **keywords: Any) -> Any:
    """Build the object (or the partial) that a node's ``_target_`` names, with plain lists and dicts as arguments.

    OmegaConf's own containers would end up in checkpoints, which hold tensors and plain values only.
    """
    return hydra.utils.instantiate(node, *positional, _convert_="all", **keywords)


def for_command(config: DictConfig, command: str, **values: Any) -> DictConfig:
    """The configuration of another command, with this one's values where it has them, and the given ones."""
    target = hydra.compose(command)
    own = OmegaConf.to_container(config, resolve=True)
    for key in target:
        if key in own:  # type: ignore[operator]
            OmegaConf.update(target, str(key), own[key], merge=False, force_add=True)  # type: ignore[index]
    for key, value in values.items():
        OmegaConf.update(target, key.replace("__", "."), value, merge=False)
    return target


def plain(node: Any) -> dict[str, Any]:
    """A config node as plain JSON-able values, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True, enum_to_str=True)  # type: ignore[return-value]


def yaml_text(node: Any) -> str:
    """A config node as YAML, interpolations resolved."""
    return OmegaConf.to_yaml(node, resolve=True)


def task_overrides() -> list[str]:
    """The overrides that this job was started with."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def overrides_text() -> str:
    """The overrides as the YAML list that Hydra itself would write."""
    return OmegaConf.to_yaml(OmegaConf.create(task_overrides()))


def is_sweep() -> bool:
    """Whether this job is one of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def config_flags() -> list[str]:
    """The flags that brought folders of configuration, as this process was started with them."""
    return _command_line.config_flags(sys.argv[1:])


def child_arguments() -> list[str]:
    """Arguments that start this job of a sweep as a single run."""
    return [*config_flags(), *task_overrides()]


def exception() -> Any:
    """The exception under way, as ``logging`` wants it."""
    return sys.exc_info()
