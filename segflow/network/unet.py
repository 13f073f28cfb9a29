"""The U-Net: an encoder, a decoder and segmentation heads (recipe 8.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segflow.core.topology import NetworkTopology
from segflow.network.blocks import CONVOLUTION, UPSAMPLING, ConvStack
from segflow.network.segmentation_network import SegmentationNetwork


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


class UNet(SegmentationNetwork):
    """A U-Net with a segmentation head on every decoder level.

    Args:
        topology: Levels, features, kernels and strides.
        encoder: image → features of every level, finest first.
        out_channels: Channels of the logits.
        deep_supervision, memory_format: See `SegmentationNetwork`.
    """

    def __init__(
        self,
        topology: NetworkTopology,
        encoder: nn.Module,
        out_channels: int,
        deep_supervision: bool = True,
        memory_format: str = "auto",
    ) -> None:
        super().__init__(topology, deep_supervision, memory_format)
        self.encoder = encoder
        self.decoder, self.heads = nn.ModuleList(), nn.ModuleList()
        head = CONVOLUTION[topology.spatial_dims]
        decoded = range(topology.levels - 2, -1, -1)  # coarsest first, in the order of computation
        for level in decoded or (0,):  # level by level, as `initialize` requires
            if decoded:
                self.decoder.append(DecoderStage(topology, level))
            self.heads.append(head(topology.features[level], out_channels, 1))
        self.freeze_unused_heads()

    def levels(self, image: Tensor) -> list[Tensor]:
        """image (B, C, *patch) → logits (B, K, *patch of the level), finest first."""
        features = self.encoder(image)
        x = features.pop()
        if not self.decoder:
            return [self.heads[0](x)]
        logits: list[Tensor] = []
        for index, (stage, head) in enumerate(zip(self.decoder, self.heads, strict=True)):
            x = stage(x, features.pop())
            if index >= self.first_head:
                logits.insert(0, head(x))
        return logits
