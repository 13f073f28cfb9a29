"""Replacing values of a planned configuration, checked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.plans import Plans
from segflow.planning.configuration import build_topology, pool
from segflow.planning.planner_settings import PlannerSettings


def override_configuration(
    plans: Plans,
    name: str,
    *,
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
    norm: str | None = None,
    network: PlannerSettings | None = None,
) -> Plans:
    """Plans in which one configuration has another patch size, batch size, network or normalisation layer.

    Configurations that inherit from it change too, as in nnU-Net.

    Args:
        plans: The plans; they are not changed.
        name: The configuration.
        patch_size: Voxels in plan axes (2 or 3 entries); None keeps the plan's.
        batch_size: Samples of one step; None keeps the plan's.
        norm: ``instance`` or ``batch``; None keeps the plan's.
        network: Constants of a planner, whose network the configuration gets; None keeps the plan's.

    Raises:
        SegflowError: There is no such configuration, or the topology cannot divide the patch; the error names the
            nearest valid sizes.
    """
    plan = plans.configuration(name)
    own: dict[str, Any] = copy.deepcopy(dict(plans.configurations[name]))
    if patch_size is not None:
        if len(patch_size) != plan.spatial_dims:
            raise SegflowError(
                f"configuration '{name}': the patch size must have {plan.spatial_dims} entries",
                found=list(patch_size),
                expected=f"such as {list(plan.patch_size)}",
            )
        own["patch_size"] = [int(n) for n in patch_size]
    if batch_size is not None:
        own["batch_size"] = int(batch_size)
    topology = plan.topology
    if network is not None:
        topology = build_topology(pool(plan.spacing, own.get("patch_size", plan.patch_size), network), network)
    elif topology.kind is not None and patch_size is not None:
        of_patch = topology.kind.options_of_patch(own["patch_size"], topology.strides)
        topology = replace(topology, options={**topology.options, **of_patch})
    if norm is not None:
        topology = replace(topology, norm=norm)
    if topology is not plan.topology:
        own["architecture"] = topology.to_architecture()
    result = replace(plans, configurations={**plans.configurations, name: own})
    result.configuration(name).check()
    return result
