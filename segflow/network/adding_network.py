"""An encoder and a decoder whose levels are joined by adding, as in MedNeXt and SegResNet."""

from __future__ import annotations

from torch import Tensor, nn

from segflow.network.segmentation_network import SegmentationNetwork


class AddingNetwork(SegmentationNetwork):
    """What was computed at a level on the way down is added on the way up, where a `UNet` puts it beside.

    A subclass has ``stem``; ``encoder`` and ``down``, finest first; ``up`` and ``decoder``, coarsest first; ``heads``.
    """

    stem: nn.Module
    encoder: nn.ModuleList
    down: nn.ModuleList
    up: nn.ModuleList
    decoder: nn.ModuleList

    def levels(self, image: Tensor) -> list[Tensor]:
        """image (B, C, *patch) → logits (B, K, *patch of the level), finest first."""
        x = self.stem(image)
        skips: list[Tensor] = []
        for blocks, down in zip(self.encoder[:-1], self.down, strict=True):
            x = blocks(x)
            skips.append(x)
            x = down(x)
        x = self.encoder[-1](x)
        if not self.decoder:
            return [self.heads[0](x)]
        logits: list[Tensor] = []
        for index, (up, blocks, head) in enumerate(zip(self.up, self.decoder, self.heads, strict=True)):
            x = blocks(up(x) + skips.pop())
            if index >= self.first_head:
                logits.insert(0, head(x))
        return logits
