"""Augmentation on the training device. As in the workers, it does not depend on devices or restarts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from segflow.sampling.patch_dataset import samples_of_rank

_STREAM = 2
"""Number that separates these draws from those of training (0) and validation (1) batches."""


class DeviceAugmentation:
    """Applies an augmentation to a batch on its device. Random choices are made on the CPU.

    Args:
        augmentation: The transform. If it has ``draw`` and ``apply``, it draws for the global batch, so that the
            number of devices does not matter.
        seed: Seed of the run.
        batch_size: Samples of the global batch.
        rank, world_size: Index of this process, and number of processes that share the batch.
    """

    def __init__(self, augmentation: Any, *, seed: int, batch_size: int, rank: int, world_size: int) -> None:
        self._augmentation = augmentation
        self._seed = seed
        self._batch_size = batch_size
        self._samples = samples_of_rank(batch_size, rank, world_size)

    @torch.no_grad()
    def __call__(
        self, image: torch.Tensor, label: torch.Tensor, *, epoch: int, index: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (B, C, *loader_patch), label (B, L, *loader_patch) → both with the final patch size."""
        sequence = np.random.SeedSequence((self._seed, _STREAM, epoch, index))
        generator = torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
        with torch.autocast(image.device.type, enabled=False):
            if not hasattr(self._augmentation, "draw"):
                both: tuple[torch.Tensor, torch.Tensor] = self._augmentation(image, label, generator)
                return both
            everyone = self._augmentation.draw(self._batch_size, image.shape[1], generator)
            draws = {name: values[self._samples.start : self._samples.stop] for name, values in everyone.items()}
            both = self._augmentation.apply(image, label, draws)
            return both
