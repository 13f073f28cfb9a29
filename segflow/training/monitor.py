"""Report after every epoch: TensorBoard, metrics.csv, progress.png and a line in the log."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from segflow.core.labels import Labels
from segflow.reporting.curves import write_progress_picture
from segflow.storage.folds import Fold
from segflow.storage.json_files import written_whole
from segflow.training.loggers import end_run
from segflow.training.module import EpochValues, SegmentationModule
from segflow.training.tags import TRAINING_HOURS

logger = logging.getLogger(__name__)

EMA_WEIGHT = 0.1
"""Weight of the newest epoch in the moving average of the pseudo-Dice (recipe 9.3)."""

PICTURE_SHARE = 0.02
"""Share of the time that drawing progress.png may take. After short epochs it is not always drawn."""

_PICTURE_CURVES = {
    "train_loss": "train/loss",
    "val_loss": "val/loss",
    "dice": "val/dice_mean",
    "dice_ema": "val/dice_ema",
    "epoch_seconds": "time/epoch",
    "lr": "lr",
}


class EpochReport(Callback):
    """Collects the values of an epoch and reports them.

    The history is part of the checkpoint, so the table and picture of a resumed run are complete.

    Args:
        folder: The fold's folder.
        labels: The label definition, which names the Dice tags.
        end_text: Says when the training will end, for the line of an epoch.
    """

    def __init__(self, folder: Fold, labels: Labels, end_text: Callable[[pl.Trainer], str]) -> None:
        self._folder = folder
        self._names = [labels.name_of(key) for key in labels.foreground_keys]
        self._end_text = end_text
        self.history: dict[str, list[float]] = {}
        self._started = 0.0
        self._train_seconds = 0.0
        self._rate = math.nan
        self._added: dict[str, float] = {}
        self._own: set[str] = set()
        self._drawn_at = -math.inf
        self._drawing_seconds = 0.0
        self._drawing: Future[None] | None = None

    @property
    def latest(self) -> dict[str, float]:
        """Last value of every curve."""
        return {tag: values[-1] for tag, values in self.history.items() if values}

    def add(self, row: Mapping[str, float]) -> None:
        """Add further values to those of the current epoch."""
        self._added |= row

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._train_seconds = time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: SegmentationModule) -> None:  # type: ignore[override]
        values = pl_module.take_epoch_values()
        if values.val_loss is None:
            self._train_seconds = time.perf_counter() - self._started
        row = self._metrics_of(values) | self._timings(trainer) | self._added
        self._added = {}
        self._own |= row.keys()  # Lightning keeps the value of an earlier epoch where this one has none
        others = _logged_by_others(trainer, self._own)
        pl_module.log_dict({tag: value for tag, value in row.items() if not math.isnan(value)})
        # Without this, Lightning would plot the curves over steps, not epochs.
        pl_module.log("step", float(trainer.current_epoch))
        self._remember(row | others, trainer.current_epoch)
        if trainer.is_global_zero:
            self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            seconds = sum(value for value in self.history.get("time/epoch", []) if not math.isnan(value))
            end_run(trainer, {TRAINING_HOURS: seconds / 3600})
            self._draw()
            self._finish_drawing()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._drawing is not None:  # the training failed, and its error matters more than one of the picture
            self._drawing.exception()
            self._drawing = None

    def state_dict(self) -> dict[str, Any]:
        return {"history": {tag: list(values) for tag, values in self.history.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = {str(tag): [float(v) for v in values] for tag, values in state_dict["history"].items()}

    def _metrics_of(self, values: EpochValues) -> dict[str, float]:
        row = {"train/loss": values.train_loss, "lr": self._rate}
        if values.val_loss is None or values.dice is None:
            return row
        row["val/loss"] = values.val_loss
        row |= {f"val/dice/{name}": dice for name, dice in zip(self._names, values.dice, strict=True)}
        row["val/dice_mean"] = values.dice_mean
        row["val/dice_ema"] = self._moving_average(values.dice_mean)
        return row

    def _moving_average(self, value: float) -> float:
        before = [v for v in self.history.get("val/dice_ema", []) if not math.isnan(v)]
        if not before:
            return value
        return before[-1] if math.isnan(value) else (1 - EMA_WEIGHT) * before[-1] + EMA_WEIGHT * value

    def _timings(self, trainer: pl.Trainer) -> dict[str, float]:
        loader = trainer.datamodule.train_loader  # type: ignore[attr-defined]
        steps = max(1, trainer.fit_loop.epoch_loop.batch_idx + 1)  # fewer where the time ended within an epoch
        waited = loader.take_wait_seconds()
        timings = {
            "time/data_wait": waited / steps,
            "time/compute": max(0.0, self._train_seconds - waited) / steps,
            "time/epoch": time.perf_counter() - self._started,
        }
        device = trainer.strategy.root_device
        if device.type == "cuda":
            timings["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        return timings

    def _remember(self, row: dict[str, float], epoch: int) -> None:
        for tag in {**self.history, **row}:
            values = self.history.setdefault(tag, [])
            del values[epoch:]
            values.extend([math.nan] * (epoch - len(values)))
            values.append(row.get(tag, math.nan))

    def _write(self, trainer: pl.Trainer) -> None:
        tags = sorted(self.history)
        epochs = len(self.history["train/loss"])
        with (
            written_whole(self._folder.metrics_csv) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            table = csv.writer(file)
            table.writerow(["epoch", *tags])
            for epoch in range(epochs):
                table.writerow([epoch, *(_cell(self.history[tag][epoch]) for tag in tags)])
        now = time.perf_counter()
        idle = self._drawing is None or self._drawing.done()
        if idle and now - self._drawn_at > self._drawing_seconds / PICTURE_SHARE:
            self._draw()
        logger.info("%s", self._line(epochs, trainer.max_epochs or epochs, self._end_text(trainer)))

    def _draw(self) -> None:
        """Draw progress.png in a thread, so that the training does not wait."""
        self._finish_drawing()
        curves = {name: list(self.history[tag]) for name, tag in _PICTURE_CURVES.items() if tag in self.history}
        pool = ThreadPoolExecutor(1, "picture")
        self._drawing = pool.submit(self._draw_curves, curves)
        pool.shutdown(wait=False)

    def _draw_curves(self, curves: Mapping[str, list[float]]) -> None:
        begun = time.perf_counter()
        write_progress_picture(curves, self._folder.progress_png)
        self._drawn_at = time.perf_counter()
        self._drawing_seconds = self._drawn_at - begun

    def _finish_drawing(self) -> None:
        """Wait for the last picture, and raise its error if there was one."""
        if self._drawing is not None:
            drawing, self._drawing = self._drawing, None
            drawing.result()

    def _line(self, epochs: int, total: int, end: str) -> str:
        now = self.latest
        parts = [f"epoch {epochs}/{total}", f"train loss {now['train/loss']:.4f}"]
        if not math.isnan(now.get("val/loss", math.nan)):
            dice = ", ".join(f"{name} {now[f'val/dice/{name}']:.3f}" for name in self._names)
            parts += [f"val loss {now['val/loss']:.4f}", f"Dice {dice}", f"EMA {now['val/dice_ema']:.4f}"]
        parts += [f"lr {now['lr']:.3g}", f"{now['time/epoch']:.1f} s", *([end] if end else [])]
        return " | ".join(parts)


def _logged_by_others(trainer: pl.Trainer, own: Collection[str]) -> dict[str, float]:
    """Values that callbacks of a user's own have logged, which may be what a search optimises."""
    found = {tag: value for tag, value in trainer.callback_metrics.items() if tag not in own and tag != "step"}
    return {tag: float(value) for tag, value in found.items() if value.numel() == 1}


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
