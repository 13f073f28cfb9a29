"""The focal loss (Lin et al. 2017, arXiv:1708.02002): cross entropy that counts voxels the less, the surer they are."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.loss.targets import Targets

TINY = 1e-12
"""Smallest 1 - p, below which a power of it has no gradient."""


class Focal(nn.Module):
    """Mean over voxels of ``-a (1 - p)^gamma log p``, with p the probability of the truth.

    Labels use the softmax over the classes. Regions use the sigmoid of each, and the mean is taken over them too.
    Voxels of the ignore label do not count.

    Args:
        labels: The dataset's label definition.
        batch_dice: Not used, since the mean is always over the batch.
        gamma: How much less sure voxels count; 0 gives cross entropy.
        alpha: Weight of foreground; background weighs 1 - alpha. null weighs both with 1.

    Raises:
        SegflowError: A number is out of range.
    """

    def __init__(
        self, labels: Labels, batch_dice: bool = True, *, gamma: float = 2.0, alpha: float | None = None
    ) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise SegflowError("loss: gamma of the focal loss must be a number from 0 on", found=gamma)
        if alpha is not None and not 0 < alpha < 1:
            raise SegflowError("loss: alpha of the focal loss must lie between 0 and 1", found=alpha)
        self.targets = Targets(labels)
        self.has_regions = labels.has_regions
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """logits (B, K, *spatial) and label map (B, 1, *spatial) of any integer type → scalar."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        label = target[:, 0]
        if self.has_regions:
            member = self.targets.membership(label)
            log_p, foreground = functional.logsigmoid(torch.where(member, logits, -logits)), member
        else:
            index = self.targets.indices(label)[:, None]
            log_p, foreground = logits.log_softmax(1).gather(1, index), index > 0
        losses = (-log_p.expm1()).clamp_min(TINY).pow(self.gamma) * -log_p
        if self.alpha is not None:
            losses = losses * torch.where(foreground, self.alpha, 1 - self.alpha)
        valid = self.targets.valid(label)
        if valid is None:
            return losses.mean()
        return (losses * valid[:, None]).sum() / (valid.sum().clamp_min(1) * losses.shape[1])
