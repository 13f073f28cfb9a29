"""How this process was started: its overrides, and whether it is a job of a sweep.

Hydra is asked only if it is already loaded, so that records of settings are quick to import.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from segflow.apps import _command_line

_without_hydra: list[str] = []
"""The overrides of a command line that was composed without Hydra."""


def keep_overrides(overrides: Sequence[str]) -> None:
    """Keep the overrides of a command line that is composed without Hydra."""
    _without_hydra[:] = overrides


def overrides() -> list[str]:
    """The overrides of this job, without Hydra's marks."""
    typed: Sequence[str] = _without_hydra
    if "hydra" in sys.modules:
        from hydra.core.hydra_config import HydraConfig

        if HydraConfig.initialized():
            typed = HydraConfig.get().overrides.task
    return [_command_line.unmarked(override) for override in typed]


def options() -> dict[str, str]:
    """Group → option of this job, such as ``loss`` → ``dice_ce``; empty where Hydra did not compose it."""
    if "hydra" not in sys.modules:
        return {}
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return {}
    return {str(group): str(option) for group, option in HydraConfig.get().runtime.choices.items() if option}


def is_sweep() -> bool:
    """Whether this job is one of a multirun."""
    if "hydra" not in sys.modules:
        return False
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def config_flags() -> list[str]:
    """The flags with folders of configuration with which this process was started."""
    return _command_line.config_flags(sys.argv[1:])


def child_arguments() -> list[str]:
    """Arguments that start this job of a sweep as a single run."""
    return [*config_flags(), *overrides()]


def launcher() -> dict[str, Any]:
    """What ``hydra/launcher=WORD`` composes to, for `_launch.launch`; empty where there is no composition."""
    if "hydra" not in sys.modules:
        return {}
    from hydra.core.hydra_config import HydraConfig

    from segflow.apps import _composition

    return _composition.plain(HydraConfig.get().launcher) if HydraConfig.initialized() else {}


def has_launcher() -> bool:
    """Whether a launcher was chosen, with which a command sends its jobs to an engine."""
    return "engine" in launcher()
