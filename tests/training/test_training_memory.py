"""A training that lacks memory says so with the settings that need less, and goes on where it ended."""

from __future__ import annotations

import pytest
import torch
from training_toy import Toy

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.execution.machine import GB, held_bytes, memory_limited
from segflow.loss.compound import DiceCrossEntropy

OF_MAIN_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 "
    "bytes. Error code 12 (Cannot allocate memory)"
)


class Hungry(DiceCrossEntropy):
    """A loss that fails in its eighth call: an epoch has three steps and two of validation."""

    calls = 0
    error: BaseException

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        Hungry.calls += 1
        if Hungry.calls == 8:
            raise self.error
        return super().forward(logits, target)


def hungry(labels: Labels, batch_dice: bool) -> Hungry:
    Hungry.calls = 0
    return Hungry(labels, batch_dice)


@pytest.mark.parametrize(
    ("error", "amounts"),
    [(RuntimeError(OF_MAIN_MEMORY), "it asked for 4096 bytes"), (MemoryError(), "MemoryError")],
    ids=["torch", "python"],
)
def test_it_goes_on_from_its_last_checkpoint(toy: Toy, error: BaseException, amounts: str) -> None:
    Hungry.error = error
    toy.train("whole")
    with pytest.raises(SegflowError, match="memory of this machine does not suffice for the training") as caught:
        toy.train(loss=hungry)
    message = str(caught.value)
    assert f"found batch 2 of 1×16×16×16 in 32-true; {amounts}. " in message
    assert (
        "configuration.batch_size=1 trainer.accumulate_grad_batches=2, configuration.patch_size='[12,16,16]'" in message
    )
    assert "planner.memory_target_gb=0.1 planner.plans_name=smaller" in message
    assert "precision=16" not in message, "a device's"
    assert "workers" not in message, "there are none"
    assert toy.train().finished
    whole, resumed = toy.weights("whole"), toy.weights()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_other_errors_stay_what_they_are(toy: Toy) -> None:
    Hungry.error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        toy.train(loss=hungry)


def test_what_exceeds_the_users_limit_is_refused_before_the_first_step(toy: Toy) -> None:
    with (
        memory_limited((held_bytes() + 50 * 2**20) / GB),
        pytest.raises(
            SegflowError, match=r"the training needs \d\S* GB of memory; found batch 2 of 1×16×16×16, "
        ) as caught,
    ):
        toy.train(loss=hungry)
    message = str(caught.value)
    assert " M weights, 0 data workers; expected at most " in message
    assert (
        "Raise max_memory_gb, or use a machine with more memory. These need less: configuration.batch_size=1" in message
    )
    assert Hungry.calls == 0, "no step was made"
    with memory_limited((held_bytes() + 500 * 2**20) / GB):
        assert toy.train().finished
