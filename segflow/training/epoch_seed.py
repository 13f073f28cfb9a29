"""Seeding of every epoch, so that a training can be repeated."""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback


class EpochSeed(Callback):
    """Seeds torch at the start of each epoch, so that dropout depends on the epoch and not on earlier ones.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        sequence = np.random.SeedSequence((self._seed, trainer.current_epoch, trainer.global_rank))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
