"""Reasons for each configuration of a plan, for the table that `segflow plan` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segflow.core.dataset import DatasetDescription
from segflow.core.fingerprint import Fingerprint
from segflow.core.geometry import invert_axis_order, permute
from segflow.core.plans import Plans
from segflow.planning.memory import measure
from segflow.planning.planner_settings import PlannerSettings
from segflow.planning.spacing import resampled_shapes

TABLE_HEADER = ("configuration", "spacing [mm]", "patch", "batch", "levels", "GPU [GB]", "disk [GB]")

_BYTES_PER_VOXEL_IMAGE, _BYTES_PER_VOXEL_LABEL = 4, 2


@dataclass(frozen=True, slots=True)
class ConfigurationReport:
    """One configuration, made or not.

    Attributes:
        name: Name such as ``3d_lowres``.
        reason: Why it was made, or why not.
        made: Whether the plans have it.
        spacing: mm, plan axes; empty if it was not made, as is ``patch_size``.
        patch_size: Voxels, plan axes.
        batch_size: Samples of one step.
        levels: Resolutions of the network.
        gpu_memory_gb: The planner's estimate; the real need also depends on the card and on torch.
        disk_bytes: Size of the preprocessed arrays before compression, so an upper limit. 0 for a configuration that
            shares another's arrays.
    """

    name: str
    reason: str
    made: bool = False
    spacing: tuple[float, ...] = ()
    patch_size: tuple[int, ...] = ()
    batch_size: int = 0
    levels: int = 0
    gpu_memory_gb: float = 0.0
    disk_bytes: int = 0

    def row(self) -> tuple[str, ...]:
        """Cells under `TABLE_HEADER`."""
        if not self.made:
            return (self.name, *("–" for _ in TABLE_HEADER[1:]))
        return (
            self.name,
            " × ".join(f"{s:.4g}" for s in self.spacing),
            " × ".join(str(n) for n in self.patch_size),
            str(self.batch_size),
            str(self.levels),
            f"{self.gpu_memory_gb:.1f}" if self.gpu_memory_gb >= 0.05 else "< 0.1",
            f"≤ {max(0.01, self.disk_bytes / 1e9):.2f}" if self.disk_bytes else "shared",
        )


def report_configurations(
    plans: Plans,
    reasons: dict[str, str],
    fingerprint: Fingerprint,
    description: DatasetDescription,
    settings: PlannerSettings,
) -> tuple[ConfigurationReport, ...]:
    """One report for each configuration in ``reasons``, and for those that the user added to the plans."""
    named = {**reasons, **{name: "added by hand" for name in plans.configurations if name not in reasons}}
    counted: set[str] = set()
    reports = []
    for name, reason in named.items():
        if name not in plans.configurations:
            reports.append(ConfigurationReport(name, reason))
            continue
        plan = plans.configuration(name)
        sizes = measure(plan.spatial_dims, len(description.channels), len(description.labels.entries), settings)
        disk = 0 if plan.data_identifier in counted else _disk_bytes(plans, plan.spacing, fingerprint, description)
        counted.add(plan.data_identifier)
        reports.append(
            ConfigurationReport(
                name,
                reason,
                made=True,
                spacing=plan.spacing,
                patch_size=plan.patch_size,
                batch_size=plan.batch_size,
                levels=plan.topology.levels,
                gpu_memory_gb=sizes.gb(plan.topology, plan.patch_size, plan.batch_size),
                disk_bytes=disk,
            )
        )
    return tuple(reports)


def _disk_bytes(
    plans: Plans, spacing: Sequence[float], fingerprint: Fingerprint, description: DatasetDescription
) -> int:
    back = invert_axis_order(plans.axis_order)
    per_voxel = _BYTES_PER_VOXEL_IMAGE * len(description.channels) + _BYTES_PER_VOXEL_LABEL
    if len(spacing) == 3:
        shapes = resampled_shapes(fingerprint, permute(spacing, back))
    else:  # a 2D configuration keeps every case's slices
        shapes = [
            _in_plane_shape(permute(shape, plans.axis_order), permute(own, plans.axis_order), spacing)
            for shape, own in zip(fingerprint.shapes_cropped, fingerprint.spacings, strict=True)
        ]
    return sum(math.prod(int(n) for n in shape) for shape in shapes) * per_voxel


def _in_plane_shape(shape: Sequence[int], own: Sequence[float], spacing: Sequence[float]) -> tuple[int, ...]:
    return (shape[0], *(round(n * o / s) for n, o, s in zip(shape[1:], own[1:], spacing, strict=True)))
