"""A user's own planner, and a user's own normalisations of channels, in plans."""

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
    "(fingerprint, dataset, settings, reader) → segflow.core.plans.Plans: the fingerprint, the description in "
    "dataset.json, the planner's settings, whose plans_name the plans must have, and the name of the image reader; "
    "segflow.planning.planner.make_plans(fingerprint, dataset, settings, reader=reader) makes the shipped plans"
)

logger = logging.getLogger(__name__)


def plans_by_own(
    part: OwnPart, fingerprint: Fingerprint, description: DatasetDescription, settings: PlannerSettings, reader: str
) -> Plans:
    """Plan a dataset with a user's own planner.

    Args:
        part: The planner, see `CONTRACT`.
        fingerprint: The measured dataset.
        description: The content of dataset.json.
        settings: Constants of the shipped planner, which the part may use.
        reader: Name of the image reader.

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
    """Plans in which channels with certain names are normalised by a user's own parts.

    The plans record the name as the channel's scheme, with the description of the part.

    Args:
        plans: The plans of a planner.
        description: Description with the names of channels, which are compared in any case of letters.
        normalizations: Name of channels → part that normalises them.
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
