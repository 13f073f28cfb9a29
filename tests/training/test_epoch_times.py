"""The estimate of a training's end, and where its time goes."""

from __future__ import annotations

import pytest

from segflow.training.epoch_progress import advice_for_data
from segflow.training.epoch_times import EpochTimes, shares_text

STEP, FIRST_STEP, VAL_STEP, FILES = 2.0, 20.0, 1.0, 3.0
STEPS, VAL_STEPS = 10, 4


class Clock:
    """A training with steps of known length, of which the first is slow."""

    def __init__(self, epochs: int, *, every: int = 1, first: int = 0) -> None:
        self.times = EpochTimes(epochs, STEPS, VAL_STEPS, every)
        self.now, self.epoch, self.every, self.fresh = 100.0, first, every, True

    def steps(self, count: int = STEPS) -> None:
        self.times.begin(self.epoch, self.now)
        for _ in range(count):
            self.now += FIRST_STEP if self.fresh else STEP
            self.fresh = False
            self.times.step(self.now)

    def rest_of_epoch(self) -> None:
        if (self.epoch + 1) % self.every == 0:
            self.times.begin_validation(self.now)
            for _ in range(VAL_STEPS):
                self.now += VAL_STEP
                self.times.val_step(self.now)
        self.times.end_steps(self.now, waited=5.0)
        self.now += FILES
        self.epoch += 1

    @property
    def rest(self) -> float | None:
        return self.times.rest(self.now)


def test_the_first_epoch_is_estimated_from_its_steps_without_the_slow_ones() -> None:
    clock = Clock(epochs=10)
    clock.steps(2)
    assert clock.rest is None
    clock = Clock(epochs=10)
    clock.steps(5)
    train, validation = STEP * STEPS, STEP * VAL_STEPS / 3  # a validation step is assumed to cost a third
    assert clock.rest == pytest.approx(5 * STEP + 9 * train + 10 * validation)


@pytest.mark.parametrize("first", [0, 4], ids=["fresh", "resumed"])
def test_later_epochs_are_estimated_from_whole_ones_of_this_start(first: int) -> None:
    clock = Clock(epochs=10, first=first)
    for _ in range(3):
        clock.steps()
        clock.rest_of_epoch()
    clock.steps(4)
    each = STEP * STEPS + VAL_STEP * VAL_STEPS + FILES
    assert clock.rest == pytest.approx((10 - first - 3) * each - 4 * STEP)


def test_a_validation_every_third_epoch_counts_where_it_is() -> None:
    clock = Clock(epochs=9, every=3)
    for _ in range(4):
        clock.steps()
        clock.rest_of_epoch()
    clock.steps(0)
    assert clock.rest == pytest.approx(5 * (STEP * STEPS + FILES) + 2 * VAL_STEP * VAL_STEPS)


def test_shares_leave_out_the_first_epoch() -> None:
    clock = Clock(epochs=10)
    assert clock.times.shares() == {}
    for _ in range(3):
        clock.steps()
        clock.rest_of_epoch()
    clock.times.end(clock.now)
    assert clock.times.measured == 3
    shares = clock.times.shares()
    assert shares == pytest.approx({"network": 15 / 27, "data": 5 / 27, "validation": 4 / 27, "files": 3 / 27})
    assert shares_text(shares) == "network 56%, data 19%, validation 15%, files 11%"


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"workers": 2}, "training.num_workers=15"),
        ({"workers": 15}, "training.augmentation_device=device"),
        ({"workers": 15, "augments_on_device": True}, "paths.scratch=FOLDER"),
        ({"workers": 15, "augments_on_device": True, "scratch": True}, "give the job more"),
        ({"workers": 0, "on_gpu": False}, "training.num_workers=4"),
        ({"workers": 0, "on_gpu": False, "processors": 2}, ""),
        ({"workers": 4, "on_gpu": False}, ""),
    ],
)
def test_advice_names_the_setting_that_helps_next(facts: dict[str, int | bool], word: str) -> None:
    usual = {"processors": 16, "on_gpu": True, "augments_on_device": False, "scratch": False}
    advice = advice_for_data(**{**usual, **facts})  # type: ignore[arg-type]
    assert word in advice
    assert bool(advice) == bool(word)
