"""The learning rate follows the recipe's numbers, through warm-up, extension and time budget."""

from __future__ import annotations

import pytest
import torch

from segflow.core.errors import SegflowError
from segflow.training.schedule import ConstantRate, CosineDecay, EpochSchedule, OneCycle, PolynomialDecay
from segflow.training.time_budget import parse_duration


def make_optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (0.01,)]
    return torch.optim.SGD(groups, lr=0.01)


def rates_of(schedule: EpochSchedule, epochs: int) -> list[float]:
    """The rate of each epoch, as a training would see it."""
    rates = []
    for _ in range(epochs):
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return rates


def test_poly_has_the_recipes_numbers():
    rates = rates_of(PolynomialDecay(make_optimizer(), 1000), 1000)
    assert rates[0] == 0.01
    assert rates[1] == pytest.approx(0.0099910, abs=5e-8)
    assert rates[500] == pytest.approx(0.0053589, abs=5e-8)
    assert rates[999] == pytest.approx(1.995e-5, rel=1e-3)


def test_cosine_is_torchs():
    ours = rates_of(CosineDecay(make_optimizer(), 20), 20)
    optimizer = make_optimizer()
    theirs_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0)
    theirs = []
    for _ in range(20):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs_schedule.step()
    assert ours == pytest.approx(theirs)


def test_warm_up_reaches_the_full_rate_in_its_last_epoch_and_then_decays_over_the_rest():
    rates = rates_of(PolynomialDecay(make_optimizer(), 150, warmup_epochs=50), 150)
    assert rates[0] == pytest.approx(0.01 / 50)
    assert rates[49] == pytest.approx(0.01)
    assert rates[50:] == pytest.approx(rates_of(PolynomialDecay(make_optimizer(), 100), 100))


def test_constant_stays():
    assert rates_of(ConstantRate(make_optimizer(), 5), 5) == [0.01] * 5


def test_groups_keep_their_ratio():
    optimizer = make_optimizer(0.01, 0.001)
    schedule = PolynomialDecay(optimizer, 10)
    rates_of(schedule, 7)
    fast, slow = (group["lr"] for group in optimizer.param_groups)
    assert slow == pytest.approx(fast / 10)


def restored(schedule: EpochSchedule, total_epochs: int) -> PolynomialDecay:
    """As a resumed run does: a fresh optimizer and schedule, then the stored states."""
    optimizer = make_optimizer()
    result = PolynomialDecay(optimizer, total_epochs)
    optimizer.load_state_dict(schedule.optimizer.state_dict())
    result.load_state_dict(schedule.state_dict())
    return result


def test_resumed_schedule_goes_on_exactly():
    whole = rates_of(PolynomialDecay(make_optimizer(), 10), 10)
    first = PolynomialDecay(make_optimizer(), 10)
    before = rates_of(first, 4)
    assert before + rates_of(restored(first, 10), 6) == whole


def test_extended_run_rises_to_the_longer_schedule_and_ends_at_its_end():
    first = PolynomialDecay(make_optimizer(), 100)
    ended_with = rates_of(first, 100)[-1]
    extended = rates_of(restored(first, 200), 100)
    from_scratch = rates_of(PolynomialDecay(make_optimizer(), 200), 200)[100:]
    ramp = extended[:10]
    assert ended_with < ramp[0] < from_scratch[0] / 5, "no jump"
    assert ramp == sorted(ramp)
    assert extended[10:] == from_scratch[10:]


def test_an_extension_survives_an_interruption():
    first = PolynomialDecay(make_optimizer(), 20)
    rates_of(first, 20)
    uninterrupted = rates_of(restored(first, 60), 40)
    begun = restored(first, 60)
    before = rates_of(begun, 2)
    assert before + rates_of(restored(begun, 60), 38) == uninterrupted


def test_a_checkpoint_of_the_first_versions_goes_on():
    first = PolynomialDecay(make_optimizer(), 20)
    rates = rates_of(first, 20)
    before = PolynomialDecay(make_optimizer(), 20)
    rates_of(before, 10)
    state = {key: value for key, value in before.state_dict().items() if key not in ("end", "extension")}
    schedule = PolynomialDecay(make_optimizer(), 20)
    schedule.load_state_dict({**state, "ramp": None})
    assert rates_of(schedule, 10) == rates[10:]


def test_within_a_budget_the_share_of_the_time_is_that_of_the_epochs():
    schedule = CosineDecay(make_optimizer(), 1000, warmup_epochs=100)
    rates = []
    for share in (0.05, 0.1, 0.55, 1.0, 0.9):
        schedule.move_to(share)
        rates.append(schedule.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.005, 0.01, 0.005, 0.0, 0.0]), "it never goes back"


def test_a_budget_of_the_first_versions_goes_on_without_a_jump():
    before = PolynomialDecay(make_optimizer(), 1000)
    rates_of(before, 10)
    schedule = PolynomialDecay(make_optimizer(), 1000)
    state = {key: value for key, value in before.state_dict().items() if key != "place"}
    schedule.load_state_dict({**state, "end": 20.0, "factor_before": 0.55**0.9})
    schedule.move_to(0.5)
    assert schedule.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**0.9)


def test_one_cycle_rises_and_falls_by_half_cosines():
    schedule = OneCycle(make_optimizer(), 100, rise=0.2, initial=0.1, minimum=0.01)
    at = {epoch: schedule.factor(epoch) for epoch in (0, 10, 20, 60, 100)}
    assert at == pytest.approx({0: 0.1, 10: 0.55, 20: 1.0, 60: 0.505, 100: 0.01})
    rates = rates_of(schedule, 100)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)


@pytest.mark.parametrize("rise", [0.0, 1.0, 3.0])
def test_a_rise_that_is_no_share_is_refused(rise: float):
    with pytest.raises(SegflowError, match="share of the run"):
        OneCycle(make_optimizer(), 10, rise=rise)


@pytest.mark.parametrize(("total", "warmup"), [(0, 0), (10, -1)])
def test_impossible_lengths_are_refused(total: int, warmup: int):
    with pytest.raises(SegflowError):
        PolynomialDecay(make_optimizer(), total, warmup_epochs=warmup)


@pytest.mark.parametrize(("total", "taken"), [(10, 1), (50, 5), (1, 0)])
def test_a_warm_up_longer_than_the_run_is_shortened_and_said(total: int, taken: int, caplog: pytest.LogCaptureFixture):
    schedule = PolynomialDecay(make_optimizer(), total, warmup_epochs=50)
    assert schedule.warmup_epochs == taken
    assert f"the warm-up of 50 epochs is longer than the run of {total}: it takes {taken}" in caplog.text
    assert max(rates_of(schedule, total)) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("1d 12h", 129600), ("90m", 5400), ("90min", 5400), ("45s", 45), ("00:02:00:00", 7200)],
)
def test_durations_as_people_write_them(text: str, seconds: float):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "0h", "2 hours", -3, {"minuten": 3}, {"hours": "two"}])
def test_unreadable_duration_says_what_is_readable(text: object):
    with pytest.raises(SegflowError, match="2h"):
        parse_duration(text)
