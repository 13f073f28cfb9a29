"""How this process was started: its overrides, and whether it is a job of a sweep.

Hydra is asked only if it is already loaded, so that records of settings are quick to import.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from segflow.apps import _command_line

_without_hydra: list[str] = []
"""The overrides of a command line that no job of Hydra runs."""

_chosen: dict[str, str] = {}
"""Its groups, with the option of each."""


def keep(overrides: Sequence[str], options: Mapping[str, str] | None = None) -> None:
    """Keep the overrides, and the options of groups, of a command line that no job of Hydra runs."""
    _without_hydra[:] = overrides
    _chosen.clear()
    _chosen.update(options or {})


def overrides() -> list[str]:
    """The overrides of this job, without Hydra's marks."""
    typed: Sequence[str] = _without_hydra
    if "hydra" in sys.modules:
        from hydra.core.hydra_config import HydraConfig

        if HydraConfig.initialized():
            typed = HydraConfig.get().overrides.task
    return [_command_line.unmarked(override) for override in typed]


def options() -> dict[str, str]:
    """Group → option of this job, such as ``loss`` → ``dice_ce``; empty for a command that needs no Hydra."""
    if "hydra" not in sys.modules:
        return dict(_chosen)
    from hydra.core.hydra_config import HydraConfig

    return chosen_in(HydraConfig.get()) if HydraConfig.initialized() else dict(_chosen)


def chosen_in(hydra: Any) -> dict[str, str]:
    """Group → option of a composition, from Hydra's own section of it."""
    return {str(group): str(option) for group, option in hydra.runtime.choices.items() if option}


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
