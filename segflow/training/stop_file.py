"""The file STOP, with which a person ends a training."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from segflow.storage.folds import Fold

logger = logging.getLogger(__name__)


class StopFile(Callback):
    """Ends the training after the epoch in which a file STOP appeared in the fold's folder.

    The file is removed, so that the same command continues the training.
    """

    def __init__(self, folder: Fold) -> None:
        self._folder = folder
        self.stopped = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = trainer.is_global_zero and self._folder.stop_file.exists()
        self.stopped = trainer.strategy.broadcast(found)
        if self.stopped:
            trainer.should_stop = True
            if trainer.is_global_zero:
                self._folder.stop_file.unlink(missing_ok=True)
                logger.info("STOP: the training ends after epoch %d", trainer.current_epoch + 1)
