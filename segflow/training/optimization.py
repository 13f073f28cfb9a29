"""Optimizer and schedule of a training."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn

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
            SegflowError: A pattern of ``lr_factors`` fits no parameter.
        """
        groups, factors = parameter_groups(network, self.lr_factors)
        whole = {"network": network} if _takes(self.optimizer, "network") else {}
        optimizer = self.optimizer(groups, **whole)
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = group["lr"] * factor
        options = {"total_epochs": self.total_epochs} if _takes(self.schedule, "total_epochs") else {}
        schedule = self.schedule(optimizer, **options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


def _takes(factory: OptimizerFactory | ScheduleFactory, argument: str) -> bool:
    try:
        return argument in inspect.signature(factory).parameters
    except ValueError:  # a callable of compiled code, which does not say what it takes
        return False
