"""The value that a search optimises, looked at after each epoch."""

from __future__ import annotations

import logging
import math

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from segflow.core.errors import SegflowError
from segflow.training.monitor import EpochReport
from segflow.training.protocols import EpochJudge

logger = logging.getLogger(__name__)


class Objective(Callback):
    """Refuses an objective that is not logged, and ends a training that a search judges not worth going on.

    Args:
        report: Has the values of each epoch.
        name: Name of the value that must be logged in the first epoch that is validated; None if there is none.
        judge: Told the values of each epoch on rank 0; None to train to the end.

    Attributes:
        pruned: Whether the judge ended the training.
    """

    def __init__(self, report: EpochReport, name: str | None, judge: EpochJudge | None) -> None:
        self._report = report
        self._name = name
        self._judge = judge
        self.pruned = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        values = self._report.latest
        is_whole = "val/loss" in values or not trainer.num_val_batches or not sum(trainer.num_val_batches)
        if self._name is not None and is_whole and self._name not in values:
            raise not_logged(self._name, list(values))
        if self._judge is None:
            return
        known = {name: value for name, value in values.items() if not math.isnan(value)}
        hopeless = trainer.is_global_zero and bool(self._judge(trainer.current_epoch, known))
        if trainer.strategy.broadcast(hopeless):
            self.pruned = trainer.should_stop = True
            logger.info("pruned: the search ends this training after epoch %d", trainer.current_epoch + 1)


def not_logged(name: str, logged: list[str]) -> SegflowError:
    """The error about an objective that a training does not log."""
    return SegflowError(
        f"objective={name} is no value that this training logs",
        expected=", ".join(sorted(logged)),
        fix="Without objective= it is the mean Dice of the validation cases.",
    )
