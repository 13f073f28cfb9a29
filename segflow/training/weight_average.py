"""Averages of the weights over the steps of a training: validated, saved and predicted with in the weights' place."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from segflow.models.own_runs import NETWORK_PREFIX, RAW_WEIGHTS
from segflow.sampling.batch import PatchBatch
from segflow.training.batch_norm import NormStatistics
from segflow.training.schedule import EpochSchedule
from segflow.training.swa_rate import SwaRate
from segflow.training.training_settings import TrainingSettings

logger = logging.getLogger(__name__)


class WeightAverage(Callback):
    """Base of the averages. The optimizer goes on from the raw weights; all else gets the average.

    During a validation the network holds the average. A checkpoint holds it under the network's names, so that every
    reader takes it, and the raw weights under `RAW_WEIGHTS`, from which a training goes on. The average is in float32.
    Every process of a training computes the same one. Running statistics of batch norms are averaged like weights.

    Attributes:
        count: Terms of the average so far: steps or epochs. Without one the average is the weights themselves.
    """

    def __init__(self) -> None:
        self.count = 0
        self._values: dict[str, Tensor] = {}  # of the network, by their names in a checkpoint
        self._average: list[Tensor] = []
        self._raw: dict[str, Tensor] | None = None
        self._aside: list[Tensor] | None = None
        self._steps = 0

    @abstractmethod
    def update(self, trainer: pl.Trainer, pl_module: Any, batch: PatchBatch, batch_idx: int) -> None:
        """Take the weights after a step of the optimizer into the average, or not."""

    def take(self, share: float) -> None:
        """Move the average towards the present weights by this share of the way."""
        values = list(self._values.values())
        if not self._average:
            self._average = [value.detach().to(torch.float32, copy=True) for value in values]
            share = 1.0
        now = [value.detach().to(torch.float32) for value in values]
        if share == 1.0:
            torch._foreach_copy_(self._average, now)
        else:
            torch._foreach_lerp_(self._average, now, share)
        self.count += 1

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While it is open, the network holds the average."""
        self._show()
        try:
            yield
        finally:
            self._hide()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._values = _averaged_values(pl_module)
        self._steps = trainer.global_step
        raw, self._raw = self._raw, None
        if raw is None:
            self.count = 0
            return
        values = list(self._values.values())
        self._average = [value.detach().to(torch.float32, copy=True) for value in values]
        with torch.no_grad():
            for name, value in self._values.items():
                value.copy_(raw[name])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: PatchBatch, batch_idx: int
    ) -> None:
        if trainer.global_step > self._steps:  # else gradients are still being collected
            self._steps = trainer.global_step
            with torch.no_grad():
                self.update(trainer, pl_module, batch, batch_idx)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._show()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._hide()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Exchange the weights for the average, beside which they stay.

        Neither changes before the optimizer's next step, so that both can be written until then; but buffers do.
        """
        if not self._average:
            return
        weights = checkpoint["state_dict"]
        raw = self._values.values() if self._aside is None else self._aside
        checkpoint[RAW_WEIGHTS] = {
            name: value.detach() if isinstance(value, nn.Parameter) else value.clone()
            for name, value in zip(self._values, raw, strict=True)
        }
        for name, average in zip(self._values, self._average, strict=True):
            weights[name] = average.to(weights[name].dtype)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._raw = checkpoint.get(RAW_WEIGHTS)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = int(state_dict["count"])

    def _show(self) -> None:
        if not self._average or self._aside is not None:
            return
        values = [value.detach() for value in self._values.values()]
        self._aside = [value.clone() for value in values]
        torch._foreach_copy_(values, self._average)

    def _hide(self) -> None:
        if self._aside is not None:
            torch._foreach_copy_([value.detach() for value in self._values.values()], self._aside)
            self._aside = None


class MovingAverage(WeightAverage):
    """Exponential moving average over the steps (EMA), whose memory grows with the training.

    After n steps the present weights get the share ``c / (n + c)``. So half of the average always comes from the same
    share of the steps so far, and a training of any length, or one that a time ends, needs no other number. With
    ``c = 9`` this is the usual warm-up of the decay, ``(1 + n) / (10 + n)``.

    Args:
        half_life: Share of the steps so far from which half of the average comes.
        decay: Largest factor on the earlier average, which ends the growth; None lets it grow.
    """

    def __init__(self, half_life: float, decay: float | None = None) -> None:
        super().__init__()
        self._c = math.log(0.5) / math.log1p(-half_life)
        self._decay = 1.0 if decay is None else decay

    def update(self, trainer: pl.Trainer, pl_module: Any, batch: PatchBatch, batch_idx: int) -> None:
        self.take(max(1.0 - self._decay, self._c / (self.count + self._c)))


class StochasticAverage(WeightAverage):
    """Stochastic weight averaging (SWA, arXiv 1803.05407): the mean of the weights at the ends of the last epochs.

    With a `SwaRate` whose rate goes in cycles, it takes the weights at the end of each cycle. Statistics of batch norms
    are estimated anew for the mean, from the last batches of the epoch.

    Args:
        start: Share of the run after which it begins.
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self._start = start
        self._images: deque[Tensor] = deque(maxlen=NormStatistics.BATCHES)

    def update(self, trainer: pl.Trainer, pl_module: Any, batch: PatchBatch, batch_idx: int) -> None:
        if not _in_tail(trainer, self._start):
            return
        statistics = NormStatistics(pl_module.network)
        if statistics:
            self._images.append(pl_module.augmented(batch, batch_idx)[0].clone())
        is_last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch  # also where a time budget ends an epoch
        if not is_last or not self._takes(trainer):
            return
        self.take(1.0 / (self.count + 1))
        if statistics:
            with self.shown():
                statistics.estimate(list(self._images), trainer.strategy)
                found = {id(buffer): buffer.detach().clone() for buffer in statistics.buffers}
            self._set_buffers(found)
        self._images.clear()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._images.clear()
        if self.count and not _in_tail(trainer, self._start):  # the run was extended, and has another end
            self.count, self._average = 0, []

    def _takes(self, trainer: pl.Trainer) -> bool:
        """Whether the end of this epoch counts: with cycles only that of a cycle."""
        schedule = _schedule(trainer)
        return (
            not (isinstance(schedule, SwaRate) and schedule.cycles)
            or schedule.ended_cycles(trainer.current_epoch) > self.count
        )

    def _set_buffers(self, found: dict[int, Tensor]) -> None:
        for value, average in zip(self._values.values(), self._average, strict=True):
            if id(value) in found:
                average.copy_(found[id(value)])


def build_average(settings: TrainingSettings) -> WeightAverage | None:
    """The average that the settings ask for; None for none."""
    if settings.average == "ema":
        decay = settings.average_decay
        logger.info("validated, kept and predicted with is a moving average of the weights (training.average=ema)")
        return MovingAverage(settings.average_half_life, decay)
    if settings.average == "swa":
        percent = 100 * settings.average_start
        logger.info("from %g %% of the run on, the mean of the weights of epochs takes their place", percent)
        return StochasticAverage(settings.average_start)
    return None


def _averaged_values(pl_module: pl.LightningModule) -> dict[str, Tensor]:
    """What is averaged, by its names in a checkpoint: weights that are trained, and statistics of norms."""
    kept = pl_module.state_dict().keys()
    network: nn.Module = pl_module.network  # type: ignore[assignment]
    values: dict[str, Tensor] = {
        name: weight for name, weight in network.named_parameters(remove_duplicate=False) if weight.requires_grad
    }
    values |= {name: buffer for name, buffer in network.named_buffers() if buffer.is_floating_point()}
    named = {NETWORK_PREFIX + name: value for name, value in values.items()}
    return {name: value for name, value in named.items() if name in kept}


def _schedule(trainer: pl.Trainer) -> Any:
    schedules = trainer.lr_scheduler_configs
    return schedules[0].scheduler if schedules else None


def _in_tail(trainer: pl.Trainer, start: float) -> bool:
    """Whether the present epoch ends in the last part of the run. The last epoch always does."""
    schedule = _schedule(trainer)
    if isinstance(schedule, EpochSchedule):
        return schedule.ended(trainer.current_epoch) > min(start * schedule.planned_epochs, schedule.planned_epochs - 1)
    epochs = int(trainer.max_epochs or 1)
    return trainer.current_epoch + 1 > min(start * epochs, epochs - 1)
