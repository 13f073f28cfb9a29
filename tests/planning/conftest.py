"""The shipped planner options, composed the way a command composes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from segflow.planning.planner_settings import PlannerSettings

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="session")
def planner_settings() -> Callable[..., PlannerSettings]:
    """Function: name of an option of the group ``planner``, values that replace its own → settings."""

    @cache
    def composed(option: str) -> Any:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(overrides=[f"+planner={option}"]).planner

    def read(option: str, **changes: Any) -> PlannerSettings:
        merged = OmegaConf.merge(OmegaConf.structured(PlannerSettings), composed(option), changes)
        settings = OmegaConf.to_object(merged)
        assert isinstance(settings, PlannerSettings)
        return settings

    return read
