"""Steps whose loss or gradient is not finite."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from segflow.core.errors import SegflowError
from segflow.sampling.batch import PatchBatch
from segflow.storage.folds import Fold
from segflow.storage.json_files import write_json

logger = logging.getLogger(__name__)

GPU_CHECK_EVERY = 25
"""Steps between checks of the loss on a GPU, since each check waits for the device."""

MAX_NAMED = 8
"""Number of batches of an epoch that a warning lists."""


class LossGuard(Callback):
    """Skips steps whose loss or gradient is not finite, and ends the training after too many in a row.

    In 16-bit precision Lightning's gradient scaler skips such steps, as in nnU-Net. In other precisions they are
    skipped here, since a single one would turn all weights into NaN.

    Args:
        folder: The fold's folder. ``nan_batch.json`` is written into it when the training is ended.
        limit: Largest number of such steps in a row.
    """

    def __init__(self, folder: Fold, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._recent: list[_Step] = []
        self._dropped = False
        self._in_a_row = 0
        self._skipped: list[_Step] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients and not _are_finite(gradients):
            optimizer.zero_grad(set_to_none=True)  # an optimizer does not change parameters without a gradient
            self._dropped = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: PatchBatch, batch_idx: int
    ) -> None:
        self._recent.append(_Step(batch_idx, outputs["loss"].detach(), tuple(batch.case_ids), self._dropped))
        self._dropped = False
        every = 1 if trainer.strategy.root_device.type == "cpu" else GPU_CHECK_EVERY
        if len(self._recent) >= every:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer)
        skipped, self._skipped = self._skipped, []
        if skipped:
            numbers = [str(step.index + 1) for step in skipped[:MAX_NAMED]]
            logger.warning(
                "epoch %d: %d of %d steps were skipped, as the loss or its gradient was no number: batch %s; cases %s",
                trainer.current_epoch + 1,
                len(skipped),
                trainer.num_training_batches,
                ", ".join(numbers) + (" …" if len(skipped) > MAX_NAMED else ""),
                ", ".join(sorted({case for step in skipped for case in step.case_ids})),
            )

    def _look(self, trainer: pl.Trainer) -> None:
        recent, self._recent = self._recent, []
        losses = torch.stack([step.loss.float() for step in recent]).tolist() if recent else []
        for step, loss in zip(recent, losses, strict=True):
            if math.isfinite(loss) and not step.dropped:
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            self._skipped.append(step)
            if self._in_a_row > self._limit:
                self._give_up(trainer, step, loss)

    def _give_up(self, trainer: pl.Trainer, step: _Step, loss: float) -> None:
        file = self._folder.path / "nan_batch.json"
        position = {"epoch": trainer.current_epoch, "batch": step.index, "rank": trainer.global_rank}
        write_json(file, position | {"loss": str(loss), "cases": list(step.case_ids)})
        last = self._folder.checkpoint("last")
        what = "the gradient became no number" if math.isfinite(loss) else f"the loss became {loss}"
        before = f", as in the {self._limit} steps before" if self._limit else ""
        precise = "" if str(trainer.precision) == "32-true" else ", or set trainer.precision=32"
        advice = f"Look at these cases (segflow doctor), lower optimizer.lr{precise}."
        raise SegflowError(
            f"{what} in epoch {trainer.current_epoch + 1}, batch {step.index + 1}{before}",
            found=f"cases {', '.join(sorted(set(step.case_ids)))}",
            fix=f"{advice} {file} names the batch"
            + (f"; {last.name} is from before this epoch." if last.is_file() else "."),
        )


def _are_finite(gradients: list[torch.Tensor]) -> bool:
    """Whether all elements are. On a CPU the sum of squares is quicker than the largest element."""
    if torch.nn.utils.get_total_norm(gradients).isfinite():
        return True
    return bool(torch.nn.utils.get_total_norm(gradients, math.inf).isfinite())  # only the squares were too large


@dataclass(frozen=True, slots=True)
class _Step:
    index: int
    loss: torch.Tensor
    case_ids: tuple[str, ...]
    dropped: bool
