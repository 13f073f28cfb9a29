"""Size and memory of a network in closed form, so that planning builds no network (recipe 3.6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from segflow.core.networks.known import KINDS
from segflow.core.topology import NetworkTopology
from segflow.planning.planner_settings import PlannerSettings

KEPT_PER_OUTPUT = 2.3
"""Numbers that a training step of a U-Net on a CPU keeps for each output of a convolution: what the norm and the
convolution need for the gradient, and the gradient of the layer in work. Measured on plain U-Nets of 30 MB to 1.2 GB of
outputs."""

BYTES_PER_VALUE = 3
"""Memory of a GPU for each number that a training step in mixed precision keeps: two bytes for itself, and one for what
torch and cuDNN hold beside it. At this rate nnU-Net's reference (560 million outputs, a batch of two,
`KEPT_PER_OUTPUT` numbers each) takes the 8 GB that nnU-Net counts for it."""

BYTES_PER_PARAMETER = 16
"""The weight, its gradient, and the two moments of Adam, in single precision."""

VALUES_PER_LOGIT = 4
"""Numbers that the loss keeps for each logit of the finest level: softmax, its logarithm, and their gradients."""


def network_size(topology: NetworkTopology, patch_size: Sequence[int], entries: int) -> int:
    """Outputs of all convolutions of a U-Net for one sample.

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
    """GPU memory of training a U-Net, by the planner's own measure.

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


def kept_values(topology: NetworkTopology, patch_size: Sequence[int], in_channels: int, out_channels: int) -> int:
    """Numbers that a training step keeps of one sample between its passes, with those of the loss.

    Args:
        topology: The network.
        patch_size: Voxels of its input.
        in_channels: Channels of the image.
        out_channels: Channels of the logits.
    """
    if topology.kind is None:
        return int(KEPT_PER_OUTPUT * network_size(topology, patch_size, out_channels))
    of_loss = VALUES_PER_LOGIT * out_channels * math.prod(patch_size)
    return topology.kind.kept_values(topology, patch_size, in_channels, out_channels) + of_loss


class MemoryMeasure(Protocol):
    """How the planner measures a network of one kind.

    Attributes:
        unit: What `size` counts, in words.
        samples: Samples with which a patch must fit.
    """

    @property
    def unit(self) -> str: ...

    @property
    def samples(self) -> int: ...

    def size(self, topology: NetworkTopology, patch_size: Sequence[int]) -> int:
        """Size of one sample."""
        ...

    def most(self, topology: NetworkTopology) -> float:
        """The largest size of one sample with which `samples` fit the memory target."""
        ...

    def batch_size(self, topology: NetworkTopology, size: int) -> int:
        """Samples of this size that fit the memory target."""
        ...

    def gb(self, topology: NetworkTopology, patch_size: Sequence[int], batch_size: int) -> float:
        """GPU memory of training."""
        ...


def measure(dims: int, in_channels: int, entries: int, settings: PlannerSettings) -> MemoryMeasure:
    """The measure of the planner's network: nnU-Net's for its U-Nets, and kept numbers for others.

    Args:
        dims: 2 or 3.
        in_channels: Channels of the image.
        entries: Outputs of the segmentation head, as nnU-Net counts them.
        settings: The planner's constants.
    """
    if settings.network in KINDS:
        return _KeptValues(dims, in_channels, entries, settings)
    return _Outputs(dims, entries, settings)


@dataclass(frozen=True, slots=True)
class _Outputs:
    """nnU-Net's measure: outputs of convolutions, compared with those that fill a reference memory."""

    dims: int
    entries: int
    settings: PlannerSettings

    @property
    def unit(self) -> str:
        return "outputs of convolutions"

    @property
    def samples(self) -> int:
        return self._reference_batch if self.settings.fit_reference_batch else 2

    def size(self, topology: NetworkTopology, patch_size: Sequence[int]) -> int:
        return network_size(topology, patch_size, self.entries)

    def most(self, topology: NetworkTopology) -> float:
        return self._budget if self.settings.fit_reference_batch else self._budget * self._reference_batch / 2

    def batch_size(self, topology: NetworkTopology, size: int) -> int:
        return round(self._budget / size * self._reference_batch)

    def gb(self, topology: NetworkTopology, patch_size: Sequence[int], batch_size: int) -> float:
        return memory_gb(self.size(topology, patch_size), batch_size, self.dims, self.settings)

    @property
    def _budget(self) -> float:
        settings = self.settings
        reference = settings.reference_size_2d if self.dims == 2 else settings.reference_size_3d
        return reference * settings.budget_factor

    @property
    def _reference_batch(self) -> int:
        settings = self.settings
        return settings.reference_batch_size_2d if self.dims == 2 else settings.reference_batch_size_3d


@dataclass(frozen=True, slots=True)
class _KeptValues:
    """The measure of other networks: numbers kept between the passes, and the parameters."""

    dims: int
    in_channels: int
    entries: int
    settings: PlannerSettings

    @property
    def unit(self) -> str:
        return "numbers kept for the gradient"

    @property
    def samples(self) -> int:
        settings = self.settings
        reference = settings.reference_batch_size_2d if self.dims == 2 else settings.reference_batch_size_3d
        return reference if settings.fit_reference_batch else settings.min_batch_size

    def size(self, topology: NetworkTopology, patch_size: Sequence[int]) -> int:
        return kept_values(topology, patch_size, self.in_channels, self.entries)

    def most(self, topology: NetworkTopology) -> float:
        return self._free_bytes(topology) / BYTES_PER_VALUE / self.samples

    def batch_size(self, topology: NetworkTopology, size: int) -> int:
        return int(self._free_bytes(topology) / BYTES_PER_VALUE / size)

    def gb(self, topology: NetworkTopology, patch_size: Sequence[int], batch_size: int) -> float:
        kept = BYTES_PER_VALUE * self.size(topology, patch_size) * batch_size
        return (kept + self._fixed_bytes(topology)) / 1e9

    def _free_bytes(self, topology: NetworkTopology) -> float:
        return self.settings.memory_target_gb * 1e9 - self._fixed_bytes(topology)

    def _fixed_bytes(self, topology: NetworkTopology) -> int:
        return BYTES_PER_PARAMETER * topology.size(self.in_channels, self.entries)


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
