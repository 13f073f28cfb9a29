"""One configuration: patch size, topology and batch size for a spacing (recipe 3.5, 3.9 and 3.10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.networks.known import KINDS
from segflow.core.topology import NetworkTopology
from segflow.planning.memory import MemoryMeasure, measure
from segflow.planning.planner_settings import PlannerSettings
from segflow.planning.pooling import Pooling, fixed_pooling, plan_pooling
from segflow.planning.workings import ConfigurationWorking, TriedPatch

NORMALIZATION_SCHEMES = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}
"""Channel name, in lower case, → nnU-Net's name of its normalisation; any other name means z-score."""

MASKED_SCHEMES = ("ZScoreNormalization",)
"""Schemes that may be restricted to the non-zero mask."""

INITIAL_PATCH_VOXELS = {2: 2048**2, 3: 256**3}
"""Volume of the patch that the search starts from, before it is clipped to the median shape."""

FEWEST_LEVELS = 3
"""No patch is shortened so far that a network beside nnU-Net's U-Nets would have fewer resolutions."""


def normalization_scheme(channel: str) -> str:
    """nnU-Net's name of the normalisation of a channel of this name."""
    return NORMALIZATION_SCHEMES.get(channel.casefold(), "ZScoreNormalization")


def plan_configuration(
    spacing: Sequence[float],
    median_shape: Sequence[float],
    dataset_voxels: float,
    description: DatasetDescription,
    median_relative_size: float,
    settings: PlannerSettings,
) -> tuple[dict[str, Any], ConfigurationWorking]:
    """Plan one configuration.

    Args:
        spacing: mm, 2 or 3 entries in plan axes.
        median_shape: Voxels of the median case at that spacing, same axes; may have halves.
        dataset_voxels: Voxels of the whole dataset, which limits the batch size.
        description: Channels and labels.
        median_relative_size: Share of voxels that cropping leaves.
        settings: The planner's constants.

    Returns:
        The JSON object of the plans' ``configurations``, without its folder of arrays, ``batch_dice`` and
        the stages of a cascade; and how its patch and batch were found.

    Raises:
        SegflowError: No patch fits the memory target, or the network would need more levels than the settings describe.
    """
    sizes = measure(len(spacing), len(description.channels), len(description.labels.entries), settings)
    pooling, topology, tried = _search_patch(spacing, median_shape, sizes, settings)
    batch_size = sizes.batch_size(topology, tried[-1].outputs)
    limit = round(dataset_voxels * settings.max_dataset_fraction / float(math.prod(pooling.patch_size)))
    schemes = [normalization_scheme(name) for name in description.channels]
    cropping_matters = median_relative_size < settings.mask_threshold
    working = ConfigurationWorking(
        even_patch=_even_patch(spacing),
        first_patch=tuple(_initial_patch(spacing, median_shape)),
        tried=tried,
        most_outputs=sizes.most(topology),
        unit=sizes.unit,
        samples=sizes.samples,
        batch_by_memory=batch_size,
        batch_by_dataset=limit,
    )
    return {
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": max(min(batch_size, limit), settings.min_batch_size),
        "patch_size": list(pooling.patch_size),
        "median_image_size_in_voxels": list(median_shape),
        "spacing": [float(s) for s in spacing],
        "normalization_schemes": schemes,
        "use_mask_for_norm": [cropping_matters and scheme in MASKED_SCHEMES for scheme in schemes],
        **resampling_entries(settings.resampling),
        "architecture": topology.to_architecture(),
    }, working


def resampling_entries(choice: str) -> dict[str, Any]:
    """The resampling keys of a configuration, for one of `RESAMPLING_CHOICES` (recipe 3.10 and 3.12)."""
    method = {"spline": "resample_data_or_seg_to_shape", "none": "no_resampling_hack"}.get(
        choice, "resample_torch_fornnunet"
    )

    def options(is_seg: bool, order: int) -> dict[str, Any]:
        if choice == "none":
            return {}
        if choice == "spline":
            return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}
        common = {"is_seg": is_seg, "force_separate_z": False, "memefficient_seg_resampling": False}
        return (
            common if choice == "torch" else {**common, "force_separate_z": None, "separate_z_anisotropy_threshold": 3}
        )

    return {
        "resampling_fn_data": method,
        "resampling_fn_seg": method,
        "resampling_fn_data_kwargs": options(False, 3),
        "resampling_fn_seg_kwargs": options(True, 1),
        "resampling_fn_probabilities": method,
        "resampling_fn_probabilities_kwargs": options(False, 1),
    }


def build_topology(pooling: Pooling, settings: PlannerSettings) -> NetworkTopology:
    """The network for these strides and kernels.

    Raises:
        SegflowError: The settings do not say how many blocks so many levels have, or the network cannot be so.
    """
    levels, dims = pooling.levels, len(pooling.patch_size)
    if levels > len(settings.encoder_blocks):
        raise SegflowError(
            f"a patch of {list(pooling.patch_size)} voxels would need a network of {levels} levels",
            expected=f"at most {len(settings.encoder_blocks)} (planner.encoder_blocks)",
            fix="Check the spacings in the fingerprint: one axis is far finer than the others.",
        )
    most = settings.max_features_2d if dims == 2 else settings.max_features_3d
    encoder_blocks = tuple(settings.encoder_blocks[:levels])
    decoder_convs = tuple(settings.decoder_convs[: levels - 1])
    features = tuple(min(most, settings.base_features * 2**level) for level in range(levels))
    kind, of_patch = KINDS.get(settings.network), {}
    if kind is not None:
        kind.check_dimensions(dims)
        features = kind.features(settings.base_features, most, levels)
        of_patch = kind.options_of_patch(pooling.patch_size, pooling.strides)
    return NetworkTopology(
        network=settings.network,
        features=features,
        kernel_sizes=tuple(
            tuple(1 if size == 1 else settings.kernel_size for size in kernel) for kernel in pooling.kernel_sizes
        ),
        strides=pooling.strides,
        encoder_blocks=encoder_blocks,
        decoder_convs=decoder_convs if settings.decoder_convs else encoder_blocks[-2::-1],
        options={
            name: tuple(value[:levels]) if isinstance(value, list) else value
            for name, value in settings.network_options.items()
        }
        | of_patch,
    )


def pool(spacing: Sequence[float], patch_size: Sequence[float], settings: PlannerSettings) -> Pooling:
    """Strides and kernels for a patch, by the planner's constants.

    Args:
        spacing: mm, plan axes.
        patch_size: Voxels along the same axes.
        settings: The planner's constants.
    """
    if settings.strides is not None:
        return fixed_pooling(settings.strides, patch_size)
    return plan_pooling(spacing, patch_size, settings.min_edge_length, settings.max_levels)


def _search_patch(
    spacing: Sequence[float], median_shape: Sequence[float], sizes: MemoryMeasure, settings: PlannerSettings
) -> tuple[Pooling, NetworkTopology, tuple[TriedPatch, ...]]:
    """Start with a large patch that is about as long in mm along every axis, and shrink it until it fits."""
    steps: list[TriedPatch] = []

    def measured(patch: Sequence[float]) -> tuple[Pooling, NetworkTopology, int]:
        pooling = pool(spacing, patch, settings)
        topology = build_topology(pooling, settings)
        size = sizes.size(topology, pooling.patch_size)
        steps.append(TriedPatch(pooling.patch_size, pooling.levels, size))
        return pooling, topology, size

    patch = _initial_patch(spacing, median_shape)
    if not min(patch) > 0:
        raise SegflowError(
            f"a patch at a spacing of {_text(spacing)} mm has no voxel along one axis",
            found=f"a median case of {_text(median_shape)} voxels",
            fix="Check the spacings and shapes in the fingerprint: one axis is far too coarse for its length.",
        )
    pooling, topology, size = measured(patch)
    fewest = 1 if topology.kind is None else min(pooling.levels, FEWEST_LEVELS)
    tried = set()
    while size > sizes.most(topology):
        tried.add((pooling.patch_size, pooling.divisor))
        need = sizes.gb(topology, pooling.patch_size, sizes.samples)
        shrunk = _shrunk(pooling, spacing, median_shape, settings)
        if min(shrunk) < 1:
            raise _no_patch(spacing, pooling.patch_size, need, settings)
        smaller, its_topology, its_size = measured(shrunk)
        # Padded to a size tried before means that no smaller one is valid.
        if (smaller.patch_size, smaller.divisor) in tried or smaller.levels < fewest:
            raise _no_patch(spacing, pooling.patch_size, need, settings)
        pooling, topology, size = smaller, its_topology, its_size
    if topology.kind is not None:
        topology.kind.check_patch(topology, pooling.patch_size)
    return pooling, topology, tuple(steps)


def _even_patch(spacing: Sequence[float]) -> tuple[int, ...]:
    """The patch of `INITIAL_PATCH_VOXELS` that is about as long in mm along every axis."""
    dims = len(spacing)
    proportions = 1 / np.asarray(spacing, dtype=np.float64)
    scale = (INITIAL_PATCH_VOXELS[dims] / np.prod(proportions)) ** (1 / dims)
    return tuple(round(float(n)) for n in proportions * scale)


def _initial_patch(spacing: Sequence[float], median_shape: Sequence[float]) -> list[float]:
    return [min(n, m) for n, m in zip(_even_patch(spacing), median_shape, strict=True)]


def _shrunk(
    pooling: Pooling, spacing: Sequence[float], median_shape: Sequence[float], settings: PlannerSettings
) -> list[int]:
    """Shorten the axis that is largest relative to the median shape, the last among equal ones, to a valid size."""
    patch = list(pooling.patch_size)
    shares = [n / m for n, m in zip(patch, median_shape, strict=True)]
    axes: Sequence[int] = range(len(patch))
    if settings.strides is not None:  # an axis of one step cannot get shorter, but others can
        axes = [axis for axis in axes if patch[axis] > pooling.divisor[axis]] or axes
    axis = max(axes, key=lambda a: (shares[a], a))
    # A smaller patch may pool less, so that sizes between multiples of the present divisor become valid.
    smaller = list(patch)
    smaller[axis] -= pooling.divisor[axis]
    patch[axis] -= pool(spacing, smaller, settings).divisor[axis]
    return patch


def _no_patch(
    spacing: Sequence[float], patch: Sequence[int], need_gb: float, settings: PlannerSettings
) -> SegflowError:
    return SegflowError(
        f"no patch at a spacing of {_text(spacing)} mm fits the memory target",
        found=f"planner.memory_target_gb={settings.memory_target_gb}, and the smallest patch {list(patch)} needs "
        f"{need_gb:.2g} GB",
        fix="Raise planner.memory_target_gb, or check the spacings and shapes in the fingerprint.",
    )


def _text(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in values)
