"""Parts of a user's own, as they may lie beside the folder in which segflow is started; each as short as can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from segflow.augmentation.step import ChannelStep
from segflow.augmentation.validation_transform import ValidationTransform
from segflow.core.labels import Labels
from segflow.core.topology import NetworkTopology


class Shallow(nn.Module):
    """Two convolutions."""

    def __init__(
        self,
        topology: NetworkTopology,
        in_channels: int,
        out_channels: int,
        deep_supervision: bool,
        width: int,
        kernels: list[int],
    ) -> None:
        super().__init__()
        assert type(kernels) is list
        conv = nn.Conv3d if topology.spatial_dims == 3 else nn.Conv2d
        self.first = conv(in_channels, width, kernels[0], padding="same")
        self.last = conv(width, out_channels, kernels[1], padding="same")

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.last(self.first(image).relu())]


class WeightedCrossEntropy(nn.Module):
    """Labels count differently."""

    def __init__(self, labels: Labels, batch_dice: bool, weights: list[float]) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss(weight=torch.tensor(weights[: labels.num_outputs]))

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.loss(logits, target[:, 0].long())


class Nothing(ValidationTransform):
    """No augmentation."""

    mirror_axes = ()

    def __init__(self, patch_size: list[int], *, labels: Labels, previous_stage: bool, **_: Any) -> None:
        super().__init__(patch_size, labels=labels, previous_stage=previous_stage)


@dataclass(kw_only=True)
class Brighter(ChannelStep):
    """Adds an amount.

    Args:
        amount: What is added.
    """

    amount: float

    def change(self, values: torch.Tensor, choices: dict[str, torch.Tensor]) -> torch.Tensor:
        return values + self.amount


class Broken(ChannelStep):
    """Forgets to return what it changed."""

    def change(self, values: torch.Tensor, choices: Any) -> Any:
        values += 1
