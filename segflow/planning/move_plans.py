"""Plans of one dataset for another, so that a network can go from one to the other (nnU-Net's move of plans)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import Fingerprint
from segflow.core.plans import Plans
from segflow.planning.configuration import normalization_scheme
from segflow.storage.json_files import read_json_as

logger = logging.getLogger(__name__)

FLAT = "2d"
"""The configuration for images of one slice."""


def read_plans_to_move(file: Path) -> Plans:
    """Read a plans file of any dataset, of segflow or nnU-Net, or the plans within a ``run.json``.

    Raises:
        SegflowError: It is missing, or its content cannot be used.
    """

    def build(content: Mapping[str, Any]) -> Plans:
        return Plans.from_json(content["plans"] if "configurations" not in content and "plans" in content else content)

    return read_json_as(file, build, "Give the plans file of the other dataset: from_plans=…/nnUNetPlans.json")


def move_plans(
    plans: Plans, fingerprint: Fingerprint, description: DatasetDescription, *, reader: str, plans_name: str
) -> Plans:
    """The plans for another dataset.

    Network, patch size, batch size, spacing, axis order, normalisation and its foreground intensities stay, so that
    weights of a network of these plans fit, and see intensities as they did. The name of the dataset, the reader, and
    with a new name of the plans the names of the arrays become those of the other dataset.

    Args:
        plans: Plans of a dataset.
        fingerprint: The other dataset as measured.
        description: Its dataset.json.
        reader: Name of its image reader.
        plans_name: Name of the plans there.

    Raises:
        SegflowError: The datasets differ in the number of channels, a configuration cannot be used, or none is for
            images of one slice, which are all that the dataset has.
    """
    _check_channels(plans, description)
    if not plans.configurations:
        raise SegflowError("from_plans: the plans have no configuration")
    for name in plans.configurations:
        _check_configuration(plans, name, description)
    if _is_flat(fingerprint) and not any(plans.configuration(c).spatial_dims == 2 for c in plans.configurations):
        raise SegflowError(
            "from_plans: the plans are for volumes, and the dataset has images of one slice",
            found=list(plans.configurations),
            expected=FLAT,
        )
    _tell_other_normalizations(plans, description)
    configurations = {
        name: _renamed(value, plans.plans_name, plans_name) for name, value in plans.configurations.items()
    }
    return replace(
        plans, dataset_name=description.name, plans_name=plans_name, reader=reader, configurations=configurations
    )


def _check_channels(plans: Plans, description: DatasetDescription) -> None:
    if len(plans.intensities) != len(description.channels):
        raise SegflowError(
            f"from_plans: the dataset has another number of channels than {plans.dataset_name}, which the plans are of",
            found=f"{len(description.channels)}: {', '.join(description.channels)}",
            expected=len(plans.intensities),
            fix="Plan the dataset by itself; training.initial_weights adapts the first layer to other channels where "
            "the networks are equal otherwise.",
        )


def _check_configuration(plans: Plans, name: str, description: DatasetDescription) -> None:
    try:
        plan = plans.configuration(name)
        plan.check()
        if plan.previous_stage is not None:
            plans.configuration(plan.previous_stage)
    except SegflowError as error:
        raise SegflowError(
            f"from_plans: configuration '{name}' cannot be used: {error.problem}",
            found=error.found,
            expected=error.expected,
            fix="Mend the plans file, or remove the configuration from it.",
        ) from error
    if len(plan.normalization_schemes) != len(description.channels):
        raise SegflowError(
            f"from_plans: configuration '{name}' normalises another number of channels than the dataset has",
            found=list(plan.normalization_schemes),
            expected=f"{len(description.channels)} of them",
        )


def _is_flat(fingerprint: Fingerprint) -> bool:
    return all(min(shape) == 1 for shape in fingerprint.shapes_cropped)


def _tell_other_normalizations(plans: Plans, description: DatasetDescription) -> None:
    """Warn about channels that these plans normalise in another way than the dataset's own would."""
    schemes = plans.configuration(next(iter(plans.configurations))).normalization_schemes
    for number, (channel, scheme) in enumerate(zip(description.channels, schemes, strict=True)):
        usual = normalization_scheme(channel)
        if scheme != usual:
            logger.warning(
                "from_plans: channel %d, '%s', is normalised as in %s: %s (a dataset of its own would have %s)",
                number,
                channel,
                plans.dataset_name,
                scheme,
                usual,
            )


def _renamed(configuration: Mapping[str, Any], before: str, after: str) -> dict[str, Any]:
    """A configuration whose arrays have a name that begins with that of the plans, unless the plans keep their name."""
    own = dict(configuration)
    if before != after and "data_identifier" in own:
        identifier = str(own["data_identifier"])
        own["data_identifier"] = after + (
            identifier.removeprefix(before) if identifier.startswith(before) else f"_{identifier}"
        )
    return own
