"""From label values to what the network's outputs stand for: indices, regions, and which voxels count."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segflow.core.labels import OUTSIDE, Labels


class Targets(nn.Module):
    """Tables that translate a label map on its own device (recipe 1.2, 9.1).

    Label values need not be consecutive: output k of the network stands for the k-th of the sorted labels. A value
    that the dataset does not declare is given an index beyond the last output, so that the loss fails on it.

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
        """Where a label map of any shape is supervised, or None where it is everywhere."""
        return None if self.ignore_label is None else target != self.ignore_label

    def indices(self, target: Tensor) -> Tensor:
        """Label map of any shape and integer type → int64 output index; 0 where it is ignored or outside."""
        values = self._values(target)
        return values if self.consecutive else self.index.to(target.device)[values]

    def membership(self, target: Tensor) -> Tensor:
        """Label map (B, ...) → bool (B, R, ...), whether a voxel belongs to each region; False where it is ignored."""
        values = self._values(target)
        return torch.stack([row[values] for row in self.regions.to(target.device)], dim=1)

    def _values(self, target: Tensor) -> Tensor:
        values = target.to(torch.int64)
        if target.dtype.is_signed:
            values = values.clamp_min(OUTSIDE + 1)  # outside the non-zero mask is background (recipe 7)
        if self.ignore_label is not None:
            values = torch.where(target == self.ignore_label, 0, values)
        return values
