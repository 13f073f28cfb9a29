"""What a user brings to planning: a planner of one's own, and names of channels with a normalisation of one's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import Fingerprint
from segflow.core.own_part import OwnPart
from segflow.core.plans import OWN_NORMALIZATIONS, Plans
from segflow.planning.planner_settings import PlannerSettings

CONTRACT = (
    "(fingerprint, dataset, settings, reader) → segflow.core.plans.Plans: what was measured, what dataset.json says, "
    "the settings of our planner, whose plans_name the plans carry, and the name of the reader of images; "
    "segflow.planning.planner.make_plans(fingerprint, dataset, settings, reader=reader) makes ours"
)

logger = logging.getLogger(__name__)


def plans_by_own(
    part: OwnPart, fingerprint: Fingerprint, description: DatasetDescription, settings: PlannerSettings, reader: str
) -> Plans:
    """Plan a dataset with a planner of a user's own.

    Args:
        part: The planner, see `CONTRACT`.
        fingerprint: What was measured.
        description: What dataset.json says.
        settings: The constants of our planner, for one that changes little about it.
        reader: Name of the reader of images.

    Raises:
        SegflowError: It failed, or its plans cannot be used for this dataset.
    """
    part.check(CONTRACT, arguments=4, travels=False)
    plans = part.run(CONTRACT, fingerprint, description, settings, reader)
    if not isinstance(plans, Plans):
        raise part.refused(type(plans).__name__, CONTRACT)
    for what, found, expected in (
        ("plans_name", plans.plans_name, settings.plans_name),
        ("reader", plans.reader, reader),
        ("dataset_name", plans.dataset_name, description.name),
        ("intensities", len(plans.intensities), len(description.channels)),
    ):
        if found != expected:
            raise SegflowError(
                f"{part.setting}: the plans have another '{what}' than they must",
                found=found,
                expected=expected,
            )
    if not plans.configurations:
        raise part.refused("plans without a configuration", CONTRACT)
    for name in plans.configurations:
        _check_configuration(part, plans, name, len(description.channels))
    return plans


def _check_configuration(part: OwnPart, plans: Plans, name: str, channels: int) -> None:
    try:
        plan = plans.configuration(name)
        plan.check()
        if len(plan.normalization_schemes) != channels:
            raise SegflowError(
                f"configuration '{name}': every channel needs a normalisation",
                found=list(plan.normalization_schemes),
                expected=f"{channels} of them",
            )
    except SegflowError as error:
        raise SegflowError(
            f"{part.setting}: the planner's plans cannot be used: {error.problem}",
            found=error.found,
            expected=error.expected,
            fix=error.fix,
        ) from error


def with_own_normalizations(
    plans: Plans, description: DatasetDescription, normalizations: Mapping[str, OwnPart]
) -> Plans:
    """The same plans, in which channels of a name that has a normalisation of a user's own are normalised by it.

    The plans record the name as the channel's scheme, and which part that was.

    Args:
        plans: A planner's.
        description: With the names of the channels, compared without regard to case.
        normalizations: Name of channels → what normalises them.
    """
    names = {name.casefold(): name for name in normalizations}
    chosen = {k: names[c.casefold()] for k, c in enumerate(description.channels) if c.casefold() in names}
    named = {scheme for name in plans.configurations for scheme in plans.configuration(name).normalization_schemes}
    used = [name for name in normalizations if name in named or name in chosen.values()]
    if normalizations and not used:
        logger.warning(
            "no channel of dataset.json has a name with a normalisation of its own; found %s; expected %s",
            ", ".join(description.channels),
            " or ".join(normalizations),
        )
    if not used:
        return plans
    configurations: dict[str, Mapping[str, Any]] = {}
    for name, value in plans.configurations.items():
        own = dict(value)
        if "normalization_schemes" in own:
            own["normalization_schemes"] = _replaced(own["normalization_schemes"], chosen)
            masks = own.get("use_mask_for_norm", [False] * len(description.channels))
            own["use_mask_for_norm"] = _replaced(masks, dict.fromkeys(chosen, False))
        configurations[name] = own
    described = {name: dict(normalizations[name].description) for name in used}
    return replace(plans, configurations=configurations, extra={**plans.extra, OWN_NORMALIZATIONS: described})


def _replaced(values: list[Any], by: Mapping[int, Any]) -> list[Any]:
    return [by.get(number, value) for number, value in enumerate(values)]
