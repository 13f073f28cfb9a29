"""Learning rates as closed forms of the epoch, so that resumed and uninterrupted runs have the same values."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segflow.core.errors import SegflowError

RAMP_SHARE = 0.1
"""Share of the added epochs in which an extended run returns to the longer schedule."""

SHORT_WARMUP_SHARE = 0.1
"""Share of the epochs that a warm-up gets which would not end within the run."""

_SAME_SHARE = 0.01
"""Difference of two shares of a schedule that is none: a new start measures its time anew."""

logger = logging.getLogger(__name__)


class Ramp(NamedTuple):
    """A linear way from the rate with which a run ended to the schedule of the longer run.

    Attributes:
        start: Epoch of the longer schedule at which it begins.
        ended: Last epoch of the former schedule; None if a time budget gave the place in it.
        before: Factor with which the run ended.
    """

    start: float
    ended: float | None
    before: float


class _Stored(NamedTuple):
    """What a checkpoint says of the schedule until then.

    Attributes:
        planned: Epochs of the schedule.
        share: How much of it was done, from 0 to 1.
        by_time: Whether a time budget gave the place.
        factor: The last factor on the full rate.
        extension: Its own ramp.
    """

    planned: int
    share: float
    by_time: bool
    factor: float
    extension: Ramp | None

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> _Stored:
        planned, place = int(state["planned_epochs"]), state.get("place")
        if place is None and float(state.get("end", planned)) < planned:  # a budget moved the end in earlier versions
            place = float(state["last_epoch"]) / float(state["end"]) * planned
        share = (float(state["last_epoch"]) if place is None else float(place)) / planned
        found = state.get("extension")
        ended = None if found is None or found[1] is None else float(found[1])
        extension = None if found is None else Ramp(float(found[0]), ended, float(found[2]))
        return cls(planned, share, place is not None, float(state["factor_before"]), extension)


class EpochSchedule(LRScheduler):
    """Base of the schedules: the rate is the full rate times a factor that depends only on the epoch.

    Three things change the factor. A warm-up rises linearly and reaches the full rate in its last epoch. A time budget
    places each step by the share of the time that is used (`move_to`): at half the time the rate is that of half the
    epochs. An extended run (to more epochs, or beyond the end of its time) goes linearly from its last rate to the
    schedule of a run with the new length. This takes a tenth of the added epochs.

    Args:
        optimizer: The rates of its groups are the full rates; groups may differ.
        total_epochs: Epochs of the run, after which the decay ends.
        warmup_epochs: Epochs of linear rise before the decay. A warm-up that would not end within the run is shortened
            to a tenth of its epochs, with a warning.
    """

    def __init__(self, optimizer: Optimizer, total_epochs: int, *, warmup_epochs: int = 0) -> None:
        if total_epochs < 1:
            raise SegflowError("a schedule needs at least one epoch", found=f"max_epochs {total_epochs}")
        if warmup_epochs < 0:
            raise SegflowError("schedule.warmup_epochs must be 0 or more", found=warmup_epochs)
        self.planned_epochs = total_epochs
        self.warmup_epochs = _within(warmup_epochs, total_epochs)
        self.extension: Ramp | None = None
        self._place: float | None = None
        self._stored: _Stored | None = None
        super().__init__(optimizer)

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Factor at a progress from 0 (start of the decay) to 1 (its end)."""

    def factor(self, epoch: float) -> float:
        """Factor on the full rate in this epoch (the first is 0). Within a time budget an epoch has parts."""
        if self.extension is not None:
            start, ended, before = self.extension
            if ended is None:
                length = steps = RAMP_SHARE * (self.planned_epochs - start)
                begun = epoch - start
            else:
                length = max(1, round(RAMP_SHARE * abs(self.planned_epochs - ended)))
                begun, steps = epoch - start + 1, length + 1
            if epoch < start + length:
                return before + begun / steps * (self._unbent(start + length) - before)
        return self._unbent(epoch)

    def _unbent(self, epoch: float) -> float:
        if epoch < self.warmup_epochs:
            return (epoch + (1 if self._place is None else 0)) / self.warmup_epochs
        length = self.planned_epochs - self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / length if length > 0 else 1.0
        return self.decay(min(max(progress, 0.0), 1.0))

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each parameter group at the present place."""
        factor = self.factor(self.place)
        return [float(rate) * factor for rate in self.base_lrs]

    @property
    def place(self) -> float:
        """The present epoch; with parts of one within a time budget."""
        return float(self.last_epoch) if self._place is None else self._place

    def ended(self, epoch: int) -> float:
        """Epochs of the schedule that are over at the end of this epoch; in a time budget, the present place."""
        return epoch + 1.0 if self._place is None else self._place

    def move_to(self, share: float) -> None:
        """Go to this share of the schedule, from 0 to 1. It never goes back, and the rate changes at once."""
        place = min(max(share, 0.0), 1.0) * self.planned_epochs
        if self._stored is not None:
            self._place = place
            self._go_on(self._stored)
            self._stored = None
        self._place = place if self._place is None else max(place, self._place)
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers. The shape and the end of the schedule are taken from the settings."""
        last = float(max(self.last_epoch - 1, 0)) if self._place is None else self._place
        return {
            "last_epoch": self.last_epoch,
            "_step_count": self._step_count,
            "planned_epochs": self.planned_epochs,
            "place": self._place,
            "extension": None if self.extension is None else list(self.extension),
            "factor_before": self.factor(last),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint. If this run goes beyond the checkpoint's end, the extension begins."""
        self.last_epoch = int(state_dict["last_epoch"])
        self._step_count = int(state_dict["_step_count"])
        self._place = None
        self._stored = _Stored.of(state_dict)
        self._go_on(self._stored)
        self._apply()

    def _go_on(self, stored: _Stored) -> None:
        """Keep the checkpoint's extension, or begin one if this run's schedule is longer than the checkpoint's."""
        self.extension = stored.extension
        if self.last_epoch == 0 and not stored.by_time:
            return
        went_back = self.place / self.planned_epochs < stored.share - _SAME_SHARE
        if self._place is None and self.planned_epochs != stored.planned and not stored.by_time:
            self.extension = Ramp(self.place, float(stored.planned), stored.factor)
        elif went_back and (self._place is not None or stored.by_time):
            self.extension = Ramp(self.place, None, stored.factor)

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


class OneCycle(EpochSchedule):
    """Up from a low rate to the full one by half a cosine, and down to almost none by another (Smith, 2018).

    Args:
        optimizer, total_epochs: See `EpochSchedule`.
        rise: Share of the run in which the rate rises.
        initial: Factor at the start.
        minimum: Factor at the end.
    """

    def __init__(
        self, optimizer: Optimizer, total_epochs: int, *, rise: float = 0.3, initial: float = 0.04, minimum: float = 0.0
    ) -> None:
        if not 0.0 < rise < 1.0:
            raise SegflowError("schedule.rise is a share of the run", found=rise, expected="more than 0, less than 1")
        self.rise, self.initial, self.minimum = rise, initial, minimum
        super().__init__(optimizer, total_epochs)

    def decay(self, progress: float) -> float:
        if progress < self.rise:
            return _half_cosine(self.initial, 1.0, progress / self.rise)
        return _half_cosine(1.0, self.minimum, (progress - self.rise) / (1.0 - self.rise))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _within(warmup_epochs: int, total_epochs: int) -> int:
    """A warm-up that ends within the run."""
    if warmup_epochs < total_epochs:
        return warmup_epochs
    shortened = round(SHORT_WARMUP_SHARE * total_epochs)
    logger.warning(
        "the warm-up of %d epochs is longer than the run of %d: it takes %d (schedule.warmup_epochs)",
        warmup_epochs,
        total_epochs,
        shortened,
    )
    return shortened
