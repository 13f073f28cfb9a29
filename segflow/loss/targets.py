"""From label values to targets of the network's outputs: indices, regions, and the mask of supervised voxels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segflow.core.labels import OUTSIDE, Labels
from segflow.network.device_copies import sent


class Targets(nn.Module):
    """Tables that translate a label map on its own device (recipe 1.2, 9.1).

    Label values need not be consecutive: output k of the network means the k-th of the sorted labels. An undeclared
    value gets an index beyond the last output, so that the loss fails.

    Args:
        labels: The dataset's label definition.
    """

    index: Tensor
    regions: Tensor

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.ignore_label = labels.ignore_label
        highest = max(labels.all_labels)
        index = torch.full((highest + 1,), len(labels.all_labels), dtype=torch.int64)
        index[list(labels.all_labels)] = torch.arange(len(labels.all_labels))
        self.consecutive = bool((index == torch.arange(highest + 1)).all())
        regions = torch.zeros((max(len(labels.regions), 1), highest + 1), dtype=torch.bool)
        for row, region in enumerate(labels.regions):
            regions[row, list(region)] = True
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("regions", regions, persistent=False)

    def valid(self, target: Tensor) -> Tensor | None:
        """Mask of the supervised voxels of a label map of any shape; None if all are supervised."""
        return None if self.ignore_label is None else target != self.ignore_label

    def indices(self, target: Tensor) -> Tensor:
        """Label map of any shape and integer type → int64 output index; 0 for ignored voxels and those outside."""
        values = self._values(target)
        return values if self.consecutive else sent(self.index, target.device)[values]

    def membership(self, target: Tensor) -> Tensor:
        """Label map (B, ...) → bool (B, R, ...), membership of voxels in each region; False for ignored voxels."""
        values = self._values(target)
        return torch.stack([row[values] for row in sent(self.regions, target.device)], dim=1)

    def _values(self, target: Tensor) -> Tensor:
        values = target.to(torch.int64)
        if target.dtype.is_signed:
            values = values.clamp_min(OUTSIDE + 1)  # outside the non-zero mask is background (recipe 7)
        if self.ignore_label is not None:
            values = torch.where(target == self.ignore_label, 0, values)
        return values
