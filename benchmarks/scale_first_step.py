"""The moment of a training's first step, for ``scale.py``."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytorch_lightning as pl


class FirstStep(pl.Callback):
    """Notes when the first step of a training is done."""

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: object) -> None:
        """Write the time once."""
        if trainer.global_step == 1:
            Path(os.environ["SCALE_FIRST_STEP"]).write_text(repr(time.monotonic()), encoding="utf-8")
