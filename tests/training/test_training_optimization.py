"""An optimizer or a schedule that refuses its settings is named, with the settings."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from segflow.core.errors import SegflowError
from segflow.training.optimization import Optimization
from segflow.training.schedule import PolynomialDecay

NETWORK = torch.nn.Linear(2, 2)


def test_an_optimizer_that_refuses_its_settings_is_named_with_them() -> None:
    optimization = Optimization(partial(torch.optim.SGD, lr=-1, momentum=0.9), PolynomialDecay, 10)
    with pytest.raises(SegflowError, match="the optimizer refuses its settings; found ValueError: Invalid") as told:
        optimization.of(NETWORK)
    assert str(told.value).endswith("Correct optimizer.lr=-1 or optimizer.momentum=0.9.")


def test_a_schedule_of_a_users_own_that_fails_is_named() -> None:
    def own(optimizer: torch.optim.Optimizer) -> Any:
        raise KeyError("rates")

    with pytest.raises(SegflowError, match=r"the schedule refuses its settings; found KeyError.*Correct schedule\."):
        Optimization(partial(torch.optim.SGD, lr=0.1), own, 10).of(NETWORK)


def test_lack_of_memory_is_not_taken_for_a_wrong_setting() -> None:
    def own(groups: Any) -> Any:
        raise MemoryError

    with pytest.raises(MemoryError):
        Optimization(own, PolynomialDecay, 10).of(NETWORK)
