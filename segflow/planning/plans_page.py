"""The page beside plans that explains them with the numbers of the dataset, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.dataset import DatasetDescription
from segflow.core.fingerprint import ChannelIntensities, Fingerprint
from segflow.core.plans import Plans
from segflow.planning.explain import ConfigurationReport
from segflow.planning.planner_settings import PlannerSettings
from segflow.planning.workings import ConfigurationWorking, SpacingWorking, Workings
from segflow.storage.json_files import written_whole

_AXES = ("z", "y", "x")
_TRIED_SHOWN = 4
"""Patches of a search that are listed: the first ones, and the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDataset:
    """What planning began with and came to.

    Attributes:
        fingerprint: The measured dataset.
        description: The content of dataset.json.
        settings: The planner's constants.
        plans: The plans.
        reports: Each configuration, made or not, and why.
        workings: How the planner found them; None for plans that it did not make.
    """

    fingerprint: Fingerprint
    description: DatasetDescription
    settings: PlannerSettings
    plans: Plans
    reports: Sequence[ConfigurationReport]
    workings: Workings | None


def plans_page(planned: PlannedDataset) -> str:
    """The page, as Markdown: dataset, spacing, normalisation, and each configuration."""
    plans = planned.plans
    parts = [
        f"# Plans '{plans.plans_name}' of {plans.dataset_name}",
        "Written by `segflow plan`, for people: nothing reads this file. The rules are in "
        "`docs/explained/planning.md`. Axes are z, y, x of the images unless it says otherwise.",
        *_dataset(planned),
        *_normalization(planned),
    ]
    for report in planned.reports:
        parts += [f"## {report.name}", f"{_sentence(report.reason)}", *_configuration(planned, report)]
    return "\n\n".join(parts) + "\n"


def add_times(page: Path, device: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Add what was measured of the time of a training to the page. Planning again writes the page without it.

    Args:
        page: The page.
        device: Where it was measured, in words.
        header, rows: The table.
    """
    text = (
        f"## Time of a training\n\nMeasured on {device} by `segflow plan estimate_time=…`: steps of the planned "
        "network on random numbers, for one fold. Reading and augmentation of patches, and validation, come on top.\n\n"
        f"{_table(header, rows)}\n"
    )
    before = page.read_text(encoding="utf-8")
    with written_whole(page) as temporary:
        temporary.write_text(f"{before}\n{text}", encoding="utf-8")


def _dataset(planned: PlannedDataset) -> list[str]:
    found, plans = planned.fingerprint, planned.plans
    spacings, shapes = np.array(found.spacings), np.array(found.shapes_cropped)
    rows = [
        [
            axis,
            *(f"{value:.4g}" for value in (shapes[:, k].min(), np.median(shapes[:, k]), shapes[:, k].max())),
            *(f"{value:.4g}" for value in (spacings[:, k].min(), np.median(spacings[:, k]), spacings[:, k].max())),
        ]
        for k, axis in enumerate(_AXES)
    ]
    header = ["axis", "fewest voxels", "median", "most", "finest spacing [mm]", "median", "coarsest"]
    parts = [
        "## Dataset",
        f"{len(spacings)} cases; channels: {', '.join(planned.description.channels)}. Rims of zeros are cut off, which "
        f"leaves {100 * found.median_relative_size:.3g} % of the median image.",
        _table(header, rows),
    ]
    if planned.workings is not None:
        parts += [_spacing(planned.workings.spacing, planned.settings)]
    order = ", ".join(_AXES[axis] for axis in plans.axis_order)
    return [*parts, f"Plans list the coarsest axis first: {order}. What follows is in this order."]


def _spacing(working: SpacingWorking, settings: PlannerSettings) -> str:
    """One sentence on the full-resolution spacing."""
    if working.given:
        return f"Spacing: `planner.target_spacing` gives {_times(settings.target_spacing or ())} mm."
    others = [axis for axis in range(3) if axis != working.coarse]
    ratio = working.median[working.coarse] / max(working.median[axis] for axis in others)
    fewer = min(working.shape[axis] for axis in others) / working.shape[working.coarse]
    axis, limit = _AXES[working.coarse], f"{settings.anisotropy_threshold:g} (`planner.anisotropy_threshold`)"
    facts = (
        f"Spacing: along {axis}, the coarsest axis, voxels are {ratio:.3g} times as long as along the others, and "
        f"their number is {fewer:.3g} times smaller."
    )
    if working.is_coarse and working.has_few:
        return (
            f"{facts} Both are more than {limit}, so that along {axis} the {settings.coarse_axis_percentile:g}th "
            "percentile of the cases is taken (but no finer than the other axes), and elsewhere the median."
        )
    return f"{facts} Not both are more than {limit}, so that the median is taken along every axis."


def _normalization(planned: PlannedDataset) -> list[str]:
    plan = planned.plans.configuration(next(iter(planned.plans.configurations)))
    rows = []
    names = list(planned.description.channels)
    for name, scheme, masked, found in zip(
        names, plan.normalization_schemes, plan.use_mask_for_norm, planned.plans.intensities, strict=False
    ):
        rows.append([name, scheme, _normalized(scheme, masked, found)])
    text = "The name of a channel in dataset.json chooses its normalisation."
    share = planned.fingerprint.median_relative_size
    limit = f"{100 * planned.settings.mask_threshold:g} % (`planner.mask_threshold`)"
    if any(plan.use_mask_for_norm):
        text += f" Zeros are left out, since cutting leaves {100 * share:.3g} %, less than {limit}."
    elif "ZScoreNormalization" in plan.normalization_schemes:
        text += f" Zeros count, since cutting leaves {100 * share:.3g} %, not less than {limit}."
    return ["## Normalisation", text, _table(["channel", "scheme", "what it does"], rows)]


def _normalized(scheme: str, masked: bool, found: ChannelIntensities) -> str:
    """What a scheme does to a channel, with the numbers of the dataset."""
    if scheme == "CTNormalization":
        return (
            f"values are cut to {found.percentile_00_5:.4g} … {found.percentile_99_5:.4g} (percentiles 0.5 and 99.5 of "
            f"the voxels in labels), less their mean {found.mean:.4g}, divided by their deviation {found.std:.4g}"
        )
    return {
        "ZScoreNormalization": "each image less its mean, divided by its deviation"
        + (", of the voxels that are not 0" if masked else ""),
        "NoNormalization": "values stay as they are",
        "RescaleTo01Normalization": "each image from 0 to 1",
        "RGBTo01Normalization": "divided by 255",
    }.get(scheme, "a normalisation of your own")


def _configuration(planned: PlannedDataset, report: ConfigurationReport) -> list[str]:
    working = planned.workings.configurations.get(report.name) if planned.workings is not None else None
    if not report.made:
        return []
    plan = planned.plans.configuration(report.name)
    if plan.previous_stage is not None:
        return [
            f"It is {_parent(planned, report.name)} with the prediction of {plan.previous_stage} as further channels."
        ]
    parts = [
        f"At {_times(plan.spacing)} mm the median case has {_times(plan.median_shape)} voxels. It is trained on "
        f"{plan.batch_size} patches of {_times(plan.patch_size)} voxels at a time."
    ]
    if working is not None:
        parts += [_patch(planned, plan, working), _batch(planned, plan, working)]
    parts.append(_network(plan, planned.settings))
    return parts


def _parent(planned: PlannedDataset, name: str) -> str:
    return str(planned.plans.configurations[name].get("inherits_from", "a configuration"))


def _patch(planned: PlannedDataset, plan: ConfigurationPlan, working: ConfigurationWorking) -> str:
    """The search for the patch."""
    tried = working.tried
    shown = [*tried[:_TRIED_SHOWN], tried[-1]] if len(tried) > _TRIED_SHOWN + 1 else tried
    rows = [
        [
            _times(patch.patch_size),
            str(patch.levels),
            f"{patch.outputs / 1e6:.1f}",
            "fits" if patch is tried[-1] else "too large",
        ]
        for patch in shown
    ]
    if len(shown) < len(tried):
        rows.insert(_TRIED_SHOWN, [f"… {len(tried) - len(shown)} more", "", "", "too large"])
    text = (
        f"Patch: the search starts from {_times(working.even_patch)} voxels, which are as long in mm along each axis, "
        f"cut to the median case: {_times(working.first_patch)}. The axis that covers most of the median case is "
        f"shortened until the network has at most {working.most_outputs / 1e6:.1f} million {working.unit} for "
        f"one patch. So many fit with a batch of {working.samples} into {planned.settings.memory_target_gb:g} GB "
        "(`planner.memory_target_gb`)."
    )
    table = _table(["patch", "levels", f"{working.unit} [million]", ""], rows)
    if plan.patch_size != tried[-1].patch_size:
        table += f"\n\nThen `planner.overrides` set the patch to {_times(plan.patch_size)}."
    return f"{text}\n\n{table}"


def _batch(planned: PlannedDataset, plan: ConfigurationPlan, working: ConfigurationWorking) -> str:
    settings = planned.settings
    return (
        f"Batch: memory allows {working.batch_by_memory}; {100 * settings.max_dataset_fraction:g} % of the dataset's "
        f"voxels (`planner.max_dataset_fraction`) are {working.batch_by_dataset}. The smaller number is taken, but at "
        f"least {settings.min_batch_size}: {plan.batch_size}."
    )


def _network(plan: ConfigurationPlan, settings: PlannerSettings) -> str:
    """The levels of the network, as a table."""
    topology, rows = plan.topology, []
    shape, spacing = list(plan.patch_size), list(plan.spacing)
    for level, stride in enumerate(topology.strides):
        shape = [math.ceil(n / s) for n, s in zip(shape, stride, strict=True)]
        spacing = [s * by for s, by in zip(spacing, stride, strict=True)]
        cells = (_times(shape), _times(spacing), _times(topology.kernel_sizes[level]), topology.features[level])
        rows.append([str(level), _times(stride), *map(str, cells)])
    header = ["level", "stride", "feature maps", "spacing [mm]", "kernel", "features"]
    options = "".join(f", {name} {_text_of(value)}" for name, value in topology.options.items())
    order = "The finest axes are halved first, together with those that are less than twice as coarse."
    if settings.strides is not None:
        order = "All axes have the strides of `planner.strides`, whatever their spacing."
    return f"Network: `{topology.network}` with {topology.levels} levels{options}. {order}\n\n{_table(header, rows)}"


def _text_of(option: object) -> str:
    return " ".join(map(str, option)) if isinstance(option, tuple) else str(option)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _times(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in values)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."
