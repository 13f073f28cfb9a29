"""The shipped planner options, composed the way a command composes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import Any

import pytest

from segflow.apps import _edge
from segflow.planning.planner_settings import PlannerSettings


@pytest.fixture(scope="session")
def planner_settings() -> Callable[..., PlannerSettings]:
    """Function: name of an option of the group ``planner``, values that replace its own → settings."""

    @cache
    def composed(option: str) -> Any:
        return _edge.compose("plan", f"planner={option}").planner

    def read(option: str, **changes: Any) -> PlannerSettings:
        section = composed(option)  # which may name a planner of a user's own too
        return PlannerSettings(
            **{entry.name: getattr(section, entry.name) for entry in fields(PlannerSettings)} | changes
        )

    return read
