"""From a fingerprint to plans, with reasons: nnU-Net's planner and its residual-encoder variants (recipe 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.fingerprint import Fingerprint
from segflow.core.geometry import permute
from segflow.core.networks.known import KINDS
from segflow.core.plans import Plans
from segflow.planning.configuration import plan_configuration
from segflow.planning.override import override_configuration
from segflow.planning.planner_settings import ConfigurationOverride, PlannerSettings
from segflow.planning.spacing import axis_order, median_resampled_shape, target_spacing
from segflow.planning.workings import ConfigurationWorking, SpacingWorking, Workings

__all__ = ["CONFIGURATIONS", "ConfigurationOverride", "Decision", "PlannerSettings", "decide", "make_plans"]

CONFIGURATIONS = ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")
"""Configurations that the planner may make. Any other name in a plans file was added by the user."""

_SPACING_RATIO_LOWRES = 2.0
"""An axis that is coarser than others by more than this factor stays, while the others get coarser (recipe 3.8)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Plans, and the reasons for them.

    Attributes:
        plans: The plans.
        reasons: Each name of `CONFIGURATIONS` → why it was made, or why not.
        workings: How spacings, patches and batches were found.
    """

    plans: Plans
    reasons: dict[str, str]
    workings: Workings


def make_plans(
    fingerprint: Fingerprint,
    description: DatasetDescription,
    settings: PlannerSettings,
    *,
    reader: str,
    dataset_name: str | None = None,
) -> Plans:
    """Plan a dataset.

    Args:
        fingerprint: The measured dataset.
        description: The content of dataset.json.
        settings: The planner's constants.
        reader: nnU-Net's name of the image reader, which goes into the plans.
        dataset_name: Name to write into the plans; None takes the description's.

    Raises:
        SegflowError: The fingerprint cannot be planned from, or an override does not fit.
    """
    return decide(fingerprint, description, settings, reader=reader, dataset_name=dataset_name).plans


def decide(
    fingerprint: Fingerprint,
    description: DatasetDescription,
    settings: PlannerSettings,
    *,
    reader: str,
    dataset_name: str | None = None,
) -> Decision:
    """Like `make_plans`, but with the reasons."""
    _check_fingerprint(fingerprint, description)
    work = _Work.start(fingerprint, description, settings)
    configurations, reasons = _plan_all(work)
    plans = Plans(
        dataset_name=dataset_name or description.name,
        plans_name=settings.plans_name,
        median_spacing=permute(_median(fingerprint.spacings), work.order),
        median_shape=permute([round(n) for n in _median(fingerprint.shapes_cropped)], work.order),
        reader=reader,
        axis_order=work.order,
        intensities=fingerprint.intensities,
        configurations=configurations,
        planner=settings.planner_name,
    )
    for key, override in settings.overrides.items():
        name = key.removeprefix("_")
        if override.patch_size is None and override.batch_size is None:
            continue
        if name in CONFIGURATIONS and name not in configurations:
            raise SegflowError(
                f"planner.overrides: '{name}' was not made: {reasons[name]}", expected=list(configurations)
            )
        plans = override_configuration(plans, name, patch_size=override.patch_size, batch_size=override.batch_size)
    return Decision(plans, reasons, Workings(work.spacing_working, work.workings))


@dataclass(frozen=True, slots=True)
class _Work:
    """Common input of all configurations. Spacing and median shape are in plan axes."""

    description: DatasetDescription
    settings: PlannerSettings
    relative_size: float
    order: tuple[int, ...]
    spacing: np.ndarray
    median_shape: np.ndarray
    cases: int
    spacing_working: SpacingWorking
    workings: dict[str, ConfigurationWorking] = field(default_factory=dict)

    @classmethod
    def start(cls, fingerprint: Fingerprint, description: DatasetDescription, settings: PlannerSettings) -> _Work:
        target, working = target_spacing(fingerprint, settings)
        order = axis_order(target, settings)
        median_shape = median_resampled_shape(fingerprint, target)
        if not min(median_shape) > 0:
            raise SegflowError(
                "at the target spacing the median case has no voxels left",
                found=f"{median_shape.tolist()} voxels at {target.tolist()} mm (z, y, x)",
                fix="Check planner.target_spacing and the spacings in the images' headers.",
            )
        return cls(
            description,
            settings,
            fingerprint.median_relative_size,
            order,
            target[list(order)],
            median_shape[list(order)],
            description.num_training,
            working,
        )

    def plan(self, name: str, spacing: np.ndarray, median_shape: list[Any], dataset_voxels: float) -> dict[str, Any]:
        planned, self.workings[name] = plan_configuration(
            spacing.tolist(), median_shape, dataset_voxels, self.description, self.relative_size, self.settings
        )
        return {"data_identifier": self._data_identifier(name), **planned}

    def _data_identifier(self, name: str) -> str:
        settings = self.settings
        own_arrays = settings.target_spacing is not None or settings.suppress_transpose
        if settings.shared_data_name is None or own_arrays or name not in ("2d", "3d_fullres"):
            return f"{settings.plans_name}_{name}"
        return f"{settings.shared_data_name}_{name}"


def _plan_all(work: _Work) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    dataset_voxels = float(np.prod(work.median_shape, dtype=np.float64) * work.cases)
    is_flat, kind = work.median_shape[0] == 1, KINDS.get(work.settings.network)
    made, reasons = {}, dict.fromkeys(CONFIGURATIONS, "made for every dataset")
    if kind is None or 2 in kind.dimensions or is_flat:  # of a 2D dataset the network is refused by name
        made["2d"] = work.plan("2d", work.spacing[1:], work.median_shape[1:].tolist(), dataset_voxels)
        made["2d"]["batch_dice"] = True
    else:
        reasons["2d"] = f"not made, since the network '{kind.name}' has no 2D form"
    if is_flat:
        reason = f"the dataset is 2D: the median case has one slice along axis {work.order[0]}"
        return made, {**dict.fromkeys(CONFIGURATIONS, f"not made, since {reason}"), "2d": reasons["2d"]}
    full = work.plan("3d_fullres", work.spacing, work.median_shape.tolist(), dataset_voxels)
    low, reasons["3d_lowres"] = _plan_lowres(work, full)
    full["batch_dice"] = low is not None
    reasons["3d_fullres"] = "made, since the dataset is 3D"
    if low is None:
        reasons["3d_cascade_fullres"] = "not made, since there is no 3d_lowres to start from"
        return {**made, "3d_fullres": full}, reasons
    low |= {"batch_dice": False, "next_stage": "3d_cascade_fullres"}
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    reasons["3d_cascade_fullres"] = "made, since there is a 3d_lowres to start from"
    return {**made, "3d_lowres": low, "3d_fullres": full, "3d_cascade_fullres": cascade}, reasons


def _plan_lowres(work: _Work, full: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Make voxels larger until a patch covers enough of the median case (recipe 3.8)."""
    settings = work.settings
    full_voxels = voxels = np.prod(work.median_shape, dtype=np.float64)
    share_full = share = math.prod(full["patch_size"]) / full_voxels
    spacing, plan = work.spacing.copy(), None

    def wanted() -> bool:
        too_small = share < settings.lowres_threshold
        return bool(too_small or (settings.force_lowres and full_voxels / voxels < settings.lowres_min_reduction))

    while wanted():
        finer = max(spacing) / spacing > _SPACING_RATIO_LOWRES
        spacing[finer if finer.any() else slice(None)] *= settings.lowres_step
        shape = work.spacing / spacing * work.median_shape
        voxels = np.prod(shape, dtype=np.float64)
        plan = work.plan("3d_lowres", spacing, [round(n) for n in shape.tolist()], float(voxels * work.cases))
        share = math.prod(plan["patch_size"]) / voxels
    part = "the whole" if share_full >= 1 else f"{100 * share_full:.2g} % of the"
    covers = f"a patch of 3d_fullres covers {part} median case"
    limit = f"{100 * settings.lowres_threshold:.3g} % (planner.lowres_threshold)"
    if plan is None:
        return None, f"not made, since {covers}, not less than {limit}; planner.force_lowres=true makes it"
    reduction = full_voxels / voxels
    if reduction < settings.lowres_min_reduction:
        return None, (
            f"not made: {covers}, less than {limit}, but a sufficiently low resolution has only {reduction:.2f} times "
            f"fewer voxels, less than {settings.lowres_min_reduction:g}; planner.force_lowres=true makes it"
        )
    if share_full >= settings.lowres_threshold:
        return plan, f"made, since planner.force_lowres is set, though {covers}"
    return plan, f"made, since {covers}, less than {limit}; it has {reduction:.1f} times fewer voxels"


def _median(values: tuple[tuple[float, ...], ...]) -> list[float]:
    return [float(v) for v in np.median(np.array(values), 0)]


def _check_fingerprint(fingerprint: Fingerprint, description: DatasetDescription) -> None:
    fix = "Measure the dataset again: segflow plan dataset=… clean=true"
    cases = len(fingerprint.spacings)
    if cases == 0 or len(fingerprint.shapes_cropped) != cases:
        raise SegflowError(
            "the fingerprint must have a spacing and a shape for every case",
            found=f"{cases} spacings and {len(fingerprint.shapes_cropped)} shapes",
            fix=fix,
        )
    for number, (spacing, shape) in enumerate(zip(fingerprint.spacings, fingerprint.shapes_cropped, strict=True)):
        if len(spacing) != 3 or len(shape) != 3:
            raise SegflowError(
                f"entry {number} of the fingerprint must have three axes",
                found=f"spacing {list(spacing)}, shape {list(shape)}",
                fix=fix,
            )
        if not all(0 < s < math.inf for s in spacing) or not all(n > 0 for n in shape):
            raise SegflowError(
                f"entry {number} of the fingerprint must have positive spacings and shapes",
                found=f"spacing {list(spacing)}, shape {list(shape)}",
                fix="`segflow doctor` names the case whose header is wrong.",
            )
    if len(fingerprint.intensities) != len(description.channels):
        raise SegflowError(
            "the fingerprint and dataset.json differ in channels",
            found=f"{len(fingerprint.intensities)} channels in the fingerprint",
            expected=f"{len(description.channels)}: {list(description.channels)}",
            fix=fix,
        )
