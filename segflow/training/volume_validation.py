"""Scores of whole validation cases during training, kept apart from the pseudo-Dice of patches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from segflow.training.monitor import EpochReport
from segflow.training.protocols import VolumeScorer

TAG = "val_volume/dice/"


class VolumeValidation(Callback):
    """Predicts a few whole validation cases every few epochs, and in the last one.

    The scores appear as ``val_volume/dice/<label name>`` and ``val_volume/dice_mean``. They decide nothing;
    ``best.ckpt`` follows the pseudo-Dice.

    Args:
        score: Predicts and scores cases with the present network.
        case_ids: Validation cases of the fold, of which the first are taken.
        every: Epochs between scores.
        count: Largest number of cases.
        report: Reports the scores with the values of the epoch.
    """

    def __init__(
        self, score: VolumeScorer, case_ids: Sequence[str], *, every: int, count: int, report: EpochReport
    ) -> None:
        self._score = score
        self._case_ids = tuple(sorted(case_ids))[:count]
        self._every = every
        self._report = report

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        epoch = trainer.current_epoch
        if (epoch + 1) % self._every and epoch + 1 != trainer.max_epochs:
            return
        # One process scores while the others wait at their next exchange; a few cases are not worth dividing.
        if trainer.is_global_zero:
            begun = time.perf_counter()
            dice = self._score(pl_module.network, self._case_ids)
            row = {f"{TAG}{name}": value for name, value in dice.items()}
            occurred = [value for value in dice.values() if value == value]
            row["val_volume/dice_mean"] = sum(occurred) / len(occurred) if occurred else float("nan")
            self._report.add(row | {"time/volume_validation": time.perf_counter() - begun})
