"""Optimizer and schedule of a training."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn

from segflow.core.errors import SegflowError
from segflow.core.own_part import described_failure
from segflow.training.parameters import parameter_groups
from segflow.training.protocols import OptimizerFactory, ScheduleFactory


@dataclass(frozen=True, slots=True)
class Optimization:
    """Optimizer, schedule and learning rates.

    Attributes:
        optimizer, schedule: Factories, see `segflow.training.protocols`.
        total_epochs: Length of the schedule.
        lr_factors: Shell pattern of parameter names → factor on the learning rate.
    """

    optimizer: OptimizerFactory
    schedule: ScheduleFactory
    total_epochs: int
    lr_factors: Mapping[str, float] = field(default_factory=dict)

    def of(self, network: nn.Module) -> OptimizerLRScheduler:
        """Build optimizer and schedule for a network's trainable parameters, in Lightning's form.

        Raises:
            SegflowError: A pattern of ``lr_factors`` fits no parameter, or optimizer or schedule refuse their settings.
        """
        groups, factors = parameter_groups(network, self.lr_factors)
        whole = {"network": network} if _takes(self.optimizer, "network") else {}
        optimizer = _made("optimizer", self.optimizer, groups, **whole)
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = group["lr"] * factor
        options = {"total_epochs": self.total_epochs} if _takes(self.schedule, "total_epochs") else {}
        schedule = _made("schedule", self.schedule, optimizer, **options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def _made(what: str, factory: OptimizerFactory | ScheduleFactory, *arguments: Any, **options: Any) -> Any:
    """What a factory makes. It may be torch's or the user's, and look at its settings only now."""
    try:
        return factory(*arguments, **options)
    except (SegflowError, MemoryError):
        raise
    except Exception as error:
        own = getattr(factory, "keywords", {})  # of a partial, as settings describe it
        fix = f"Correct {' or '.join(f'{what}.{name}={value}' for name, value in own.items()) or what}."
        raise SegflowError(f"the {what} refuses its settings", found=described_failure(error), fix=fix) from error


def _takes(factory: OptimizerFactory | ScheduleFactory, argument: str) -> bool:
    try:
        return argument in inspect.signature(factory).parameters
    except ValueError:  # a callable of compiled code, which does not say what it takes
        return False
