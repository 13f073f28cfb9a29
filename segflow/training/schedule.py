"""Learning rates as closed forms of the epoch, so that resumed and uninterrupted runs have the same values."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segflow.core.errors import SegflowError

RAMP_SHARE = 0.1
"""Share of the added epochs in which an extended run returns to the longer schedule."""

NEAR_THE_END = 0.5
"""Epochs; a time budget with less than this left is used up."""


class EpochSchedule(LRScheduler):
    """Base of the schedules: the rate is the full rate times a factor that depends only on the epoch.

    Three things change the factor. A warm-up rises linearly and reaches the full rate in its last epoch. A time budget
    moves the end (`move_end`). An extended run (to more epochs, or beyond the end of its time) goes linearly from its
    last rate to the schedule of a run with the new length. This takes a tenth of the added epochs.

    Args:
        optimizer: The rates of its groups are the full rates; groups may differ.
        total_epochs: Epochs of the run, after which the decay ends.
        warmup_epochs: Epochs of linear rise before the decay.
    """

    def __init__(self, optimizer: Optimizer, total_epochs: int, *, warmup_epochs: int = 0) -> None:
        if total_epochs < 1:
            raise SegflowError("a schedule needs at least one epoch", found=f"max_epochs {total_epochs}")
        if not 0 <= warmup_epochs < total_epochs:
            raise SegflowError(
                "schedule.warmup_epochs must lie within the run",
                found=f"{warmup_epochs} of {total_epochs} epochs",
                fix="Shorten the warm-up, or raise trainer.max_epochs.",
            )
        self.planned_epochs = total_epochs
        self.end = float(total_epochs)
        self.warmup_epochs = warmup_epochs
        self.extension: tuple[int, float, float] | None = None  # first epoch, former end, last factor before
        super().__init__(optimizer)

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Factor at a progress from 0 (start of the decay) to 1 (its end)."""

    def factor(self, epoch: int) -> float:
        """Factor on the full rate in this epoch (the first is 0)."""
        if self.extension is not None:
            start, ended, before = self.extension
            length = max(1, round(RAMP_SHARE * abs(self.end - ended)))
            if epoch < start + length:
                share = (epoch - start + 1) / (length + 1)
                return before + share * (self._unbent(start + length) - before)
        return self._unbent(epoch)

    def _unbent(self, epoch: int) -> float:
        if epoch < self.warmup_epochs:
            return (epoch + 1) / self.warmup_epochs
        length = self.end - self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / length if length > 0 else 1.0
        return self.decay(min(max(progress, 0.0), 1.0))

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each parameter group in the current epoch."""
        factor = self.factor(self.last_epoch)
        return [float(rate) * factor for rate in self.base_lrs]

    def move_end(self, end: float) -> None:
        """Move the end of the decay to another epoch, counted from the start of the run. The rate changes at once."""
        self.end = float(end)
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers. The shape and the end of the schedule are taken from the settings."""
        return {
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
            "planned_epochs": self.planned_epochs,
            "end": self.end,
            "extension": None if self.extension is None else list(self.extension),
            "factor_before": self.factor(max(self.last_epoch - 1, 0)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint. If this run goes beyond the checkpoint's end, the extension begins."""
        self.last_epoch = int(state_dict["last_epoch"])
        self._step_count = int(state_dict["_step_count"])
        extension = state_dict.get("extension")
        self.extension = None if extension is None else (int(extension[0]), float(extension[1]), float(extension[2]))
        planned = int(state_dict["planned_epochs"])
        end = float(state_dict.get("end", planned))  # checkpoints of the first versions lack it
        time_was_up = end < planned and end - self.last_epoch < NEAR_THE_END
        if self.last_epoch > 0 and (time_was_up or self.planned_epochs != planned):
            before = float(state_dict["factor_before"])
            self.extension = (self.last_epoch, end if time_was_up else float(planned), before)
        self._apply()

    def _apply(self) -> None:
        rates = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates


class PolynomialDecay(EpochSchedule):
    """``rate * (1 - epoch / total_epochs) ** exponent``, nnU-Net's schedule (recipe 9.2).

    Args:
        optimizer, total_epochs: See `EpochSchedule`.
        exponent: Power of the remaining share of the epochs; 0.9 in nnU-Net.
        warmup_epochs: Epochs of linear rise before the decay.
    """

    def __init__(
        self, optimizer: Optimizer, total_epochs: int, *, exponent: float = 0.9, warmup_epochs: int = 0
    ) -> None:
        self.exponent = exponent
        super().__init__(optimizer, total_epochs, warmup_epochs=warmup_epochs)

    def decay(self, progress: float) -> float:
        share: float = (1.0 - progress) ** self.exponent
        return share


class CosineDecay(EpochSchedule):
    """Half a cosine from 1 to ``minimum`` (recipe 16).

    Args:
        optimizer, total_epochs: See `EpochSchedule`.
        minimum: Factor at the end.
        warmup_epochs: Epochs of linear rise before the decay.
    """

    def __init__(
        self, optimizer: Optimizer, total_epochs: int, *, minimum: float = 0.0, warmup_epochs: int = 0
    ) -> None:
        self.minimum = minimum
        super().__init__(optimizer, total_epochs, warmup_epochs=warmup_epochs)

    def decay(self, progress: float) -> float:
        return self.minimum + (1.0 - self.minimum) * 0.5 * (1.0 + math.cos(math.pi * progress))


class ConstantRate(EpochSchedule):
    """The full rate throughout, after an optional warm-up."""

    def decay(self, progress: float) -> float:
        return 1.0
