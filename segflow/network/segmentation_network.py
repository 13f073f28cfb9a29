"""What the networks of segflow have in common: logits of several levels, and the memory format of their features."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.topology import NetworkTopology
from segflow.network.memory_format import channels_last, is_quicker_channels_last


class SegmentationNetwork(nn.Module):
    """A network with a segmentation head on every decoder level.

    A subclass has ``heads``, coarsest first, and `levels`.

    Args:
        topology: Levels, features, kernels and strides.
        deep_supervision: Coarser levels give logits too.
        memory_format: Memory format of the features. With ``channels_last`` the image is converted, and every layer
            keeps the format. With ``contiguous`` it is the format of the image. ``auto`` is channels last where passes
            are quicker so: for a `UNet` on a CPU (`segflow.network.cpu.accelerate`), and on a GPU without gradients.

    Attributes:
        deep_supervision: May be changed at any time. If true, all decoder levels give logits except the coarsest, whose
            weight in the loss is 0 (recipe 9.1), so that it is not computed. If false, only the finest does.

    A head that is never computed keeps its initial weights, as in nnU-Net. It does not require a gradient, so that
    distributed training does not wait for one.
    """

    heads: nn.ModuleList

    def __init__(self, topology: NetworkTopology, deep_supervision: bool, memory_format: str) -> None:
        super().__init__()
        self.topology = topology
        self.deep_supervision = deep_supervision
        self.memory_format = memory_format

    @property
    def widest(self) -> int:
        """Features of the widest tensor at the finest level."""
        return self.topology.features[0]

    @property
    def first_head(self) -> int:
        """Index of the coarsest head that gives logits."""
        supervised = max(len(self.heads) - 1, 1) if self.deep_supervision else 1
        return len(self.heads) - supervised

    def freeze_unused_heads(self) -> None:
        """Let heads that are not computed require no gradient."""
        for index, module in enumerate(self.heads):
            module.requires_grad_(index >= self.first_head)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, *patch) → logits (B, K, *patch of the level), finest first.

        Raises:
            SegflowError: The patch is not divisible by the strides.
        """
        _check_patch(image.shape[2:], self.topology.divisor)
        if self.memory_format == "channels_last" or (self.memory_format == "auto" and is_quicker_channels_last(image)):
            image = channels_last(image)
        return self.levels(image)

    @abstractmethod
    def levels(self, image: Tensor) -> list[Tensor]:
        """image (B, C, *patch), in the memory format of the features → logits, finest first."""


def _check_patch(shape: Sequence[int], divisor: Sequence[int]) -> None:
    if len(shape) != len(divisor) or any(n % d for n, d in zip(shape, divisor, strict=True)):
        raise SegflowError(
            "the network cannot take a patch of this shape",
            found=list(shape),
            expected=f"{len(divisor)} axes, multiples of {list(divisor)}",
        )
