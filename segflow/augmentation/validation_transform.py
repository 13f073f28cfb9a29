"""The transform of validation batches: the centre of the patch, without random changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from segflow.augmentation.cascade import to_one_hot
from segflow.core.labels import Labels


class ValidationTransform:
    """Takes the centre of the patch, without random changes. It is called like `BatchAugmentation`.

    Args:
        patch_size: Voxels of the final patch.
        labels: The label definition.
        previous_stage: Label channel 1 is the label of a previous stage.
    """

    def __init__(self, patch_size: Sequence[int], *, labels: Labels, previous_stage: bool) -> None:
        self.loader_patch_size = self.patch_size = tuple(int(n) for n in patch_size)
        self.foreground_labels = labels.foreground_labels
        self.previous_stage = previous_stage

    @torch.no_grad()
    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Crop, turn -1 into 0, and append the previous stage's one-hot channels.

        Args:
            image: float32 (B, C, *larger or equal).
            label: int16 (B, 1 or 2, *as image).
            generator: Not used.
        """
        starts = [size // 2 - n // 2 for size, n in zip(image.shape[2:], self.patch_size, strict=True)]
        within = tuple(slice(a, a + n) for a, n in zip(starts, self.patch_size, strict=True))
        centre: tuple[Any, ...] = (..., *within)
        image, label = image[centre], label[centre]
        if self.previous_stage:
            shape = (len(image), len(self.foreground_labels), *self.patch_size)
            one_hot = image.new_empty(shape)
            to_one_hot(label[:, 1], self.foreground_labels, one_hot)
            image, label = torch.cat([image, one_hot], 1), label[:, :1]
        return image.contiguous(), label.clamp(min=0)
