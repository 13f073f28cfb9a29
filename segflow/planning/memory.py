"""Size and memory of a network in closed form, so that planning builds no network (recipe 3.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from segflow.core.topology import NetworkTopology
from segflow.planning.planner_settings import PlannerSettings


def network_size(topology: NetworkTopology, patch_size: Sequence[int], entries: int) -> int:
    """Outputs of all convolutions for one sample.

    Args:
        topology: The network.
        patch_size: Voxels of its input.
        entries: Outputs of the segmentation head; nnU-Net counts every entry of dataset.json's ``labels``.
    """
    voxels = _voxels_of_levels(topology, patch_size)
    outputs = [c * v for c, v in zip(topology.features, voxels, strict=True)]
    total = sum(_encoder_outputs(topology, level) * n for level, n in enumerate(outputs))
    if topology.network == "residual_unet":
        total += outputs[0]  # the stem
    finest_first = tuple(reversed(topology.decoder_convs))
    total += sum((convs + 1) * n for convs, n in zip(finest_first, outputs, strict=False))  # 1: transposed convolution
    # A network of one level has no decoder, and so no head.
    return total + (entries * voxels[0] if topology.levels > 1 else 0)


def memory_gb(size: int, batch_size: int, spatial_dims: int, settings: PlannerSettings) -> float:
    """GPU memory of training, by the planner's own measure.

    Args:
        size: Result of `network_size` for one sample.
        batch_size: Samples of one step.
        spatial_dims: 2 or 3.
        settings: Reference sizes, batch sizes and memory.
    """
    if spatial_dims == 2:
        reference = settings.reference_size_2d * settings.reference_batch_size_2d
    else:
        reference = settings.reference_size_3d * settings.reference_batch_size_3d
    # A reference size is the size of one sample at which the reference batch fills the reference memory.
    return size * batch_size / reference * settings.reference_memory_gb


def _voxels_of_levels(topology: NetworkTopology, patch_size: Sequence[int]) -> list[int]:
    shape, voxels = list(patch_size), []
    for stride in topology.strides:
        shape = [n // s for n, s in zip(shape, stride, strict=True)]
        voxels.append(math.prod(shape))
    return voxels


def _encoder_outputs(topology: NetworkTopology, level: int) -> int:
    """Number of convolutions of an encoder level. Each has as many outputs as the level."""
    blocks = topology.encoder_blocks[level]
    if topology.network == "plain_unet":
        return blocks
    changes = level > 0 and (
        topology.features[level] != topology.features[level - 1] or any(s > 1 for s in topology.strides[level])
    )
    return 2 * blocks + (1 if changes else 0)  # the shortcut of a block that changes the shape has a convolution
