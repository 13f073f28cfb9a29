"""The U-Net: an encoder, a decoder and segmentation heads (recipe 8.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segflow.core.errors import SegflowError
from segflow.core.topology import NetworkTopology
from segflow.network.blocks import CONVOLUTION, UPSAMPLING, ConvStack
from segflow.network.memory_format import channels_last, is_quicker_channels_last


class DecoderStage(nn.Module):
    """Upsample by a transposed convolution with kernel = stride, append the skip connection, convolve.

    Args:
        topology: Gives features, kernels and strides.
        level: The level of the result, 0 = finest.
    """

    def __init__(self, topology: NetworkTopology, level: int) -> None:
        super().__init__()
        stride, width = topology.strides[level + 1], topology.features[level]
        self.up = UPSAMPLING[topology.spatial_dims](
            topology.features[level + 1], width, stride, stride=stride, bias=topology.conv_bias
        )
        count = topology.decoder_convs[topology.levels - 2 - level]
        self.stack = ConvStack(topology, count, 2 * width, width, topology.kernel_sizes[level])

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """below (B, C', *coarser) and skip (B, C, *finer) → (B, C, *finer)."""
        result: Tensor = self.stack(torch.cat((self.up(below), skip), dim=1))
        return result


class UNet(nn.Module):
    """A U-Net with a segmentation head on every decoder level.

    Args:
        topology: Levels, features, kernels and strides.
        encoder: image → features of every level, finest first.
        out_channels: Channels of the logits.
        deep_supervision: Coarser levels give logits too.
        memory_format: Memory format of the features. With ``channels_last`` the image is converted, and every layer
            keeps the format. With ``contiguous`` it is the format of the image. ``auto`` is channels last where passes
            are quicker so: on a CPU (`segflow.network.cpu.accelerate`), and on a GPU without gradients.

    Attributes:
        deep_supervision: May be changed at any time. If true, all decoder levels give logits except the coarsest, whose
            weight in the loss is 0 (recipe 9.1), so that it is not computed. If false, only the finest does.

    A head that is never computed keeps its initial weights, as in nnU-Net. It does not require a gradient, so that
    distributed training does not wait for one.
    """

    def __init__(
        self,
        topology: NetworkTopology,
        encoder: nn.Module,
        out_channels: int,
        deep_supervision: bool = True,
        memory_format: str = "auto",
    ) -> None:
        super().__init__()
        self.topology = topology
        self.deep_supervision = deep_supervision
        self.memory_format = memory_format
        self.encoder = encoder
        self.decoder, self.heads = nn.ModuleList(), nn.ModuleList()
        head = CONVOLUTION[topology.spatial_dims]
        decoded = range(topology.levels - 2, -1, -1)  # coarsest first, in the order of computation
        for level in decoded or (0,):  # level by level, as `initialize` requires
            if decoded:
                self.decoder.append(DecoderStage(topology, level))
            self.heads.append(head(topology.features[level], out_channels, 1))
        for index, module in enumerate(self.heads):
            module.requires_grad_(index >= len(self.heads) - self._supervised)

    @property
    def _supervised(self) -> int:
        """Number of heads that give logits, from the finest on."""
        return max(len(self.heads) - 1, 1) if self.deep_supervision else 1

    def forward(self, image: Tensor) -> list[Tensor]:
        """image (B, C, *patch) → logits (B, K, *patch of the level), finest first.

        Raises:
            SegflowError: The patch is not divisible by the strides.
        """
        _check_patch(image.shape[2:], self.topology.divisor)
        if self.memory_format == "channels_last" or (self.memory_format == "auto" and is_quicker_channels_last(image)):
            image = channels_last(image)
        levels = self.encoder(image)
        x = levels.pop()
        if not self.decoder:
            return [self.heads[0](x)]
        logits: list[Tensor] = []
        first = len(self.heads) - self._supervised
        for index, (stage, head) in enumerate(zip(self.decoder, self.heads, strict=True)):
            x = stage(x, levels.pop())
            if index >= first:
                logits.insert(0, head(x))
        return logits


def _check_patch(shape: Sequence[int], divisor: Sequence[int]) -> None:
    if len(shape) != len(divisor) or any(n % d for n, d in zip(shape, divisor, strict=True)):
        raise SegflowError(
            "the network cannot take a patch of this shape",
            found=list(shape),
            expected=f"{len(divisor)} axes, multiples of {list(divisor)}",
        )
