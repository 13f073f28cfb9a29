"""What a training will come to, said from measured steps; and the time of a planned network's step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models

from segflow.training import time_estimate
from segflow.training.epoch_times import UNEVEN, EpochTimes
from segflow.training.forecast import Forecast
from segflow.training.time_estimate import StepTime, header, measure_step

SLOW = Forecast(
    step_seconds=0.5,
    measured=12,
    rest_seconds=150_000.0,
    epoch_seconds=150.0,
    epochs=1000,
    planned_epochs=1000,
    steps=250,
    cases_after=12,
)


def test_a_training_is_told_with_its_end_and_with_what_follows() -> None:
    text = SLOW.text()
    assert text.startswith("500 ms per iteration (mean of 12): 1,000 epochs of 250 iterations take 1 d 18 h, until ")
    assert text.endswith(". The prediction of 12 whole validation cases follows, and is not in it")
    assert "(20 epochs are left) take" in replace(SLOW, epochs=20, rest_seconds=3000.0).text()
    assert "follows" not in replace(SLOW, cases_after=0).text()


def test_a_budget_is_told_in_iterations_and_epochs() -> None:
    text = replace(SLOW, budget_seconds=7200.0).text()
    assert (
        "the 2 h that trainer.max_time leaves are about 12,000 iterations (48 epochs), 0.048 times the planned" in text
    )
    assert replace(SLOW, budget_seconds=1e6).text() == SLOW.text()  # it ends before its time is used up


def test_nothing_is_told_too_early_or_of_a_short_training() -> None:
    assert not replace(SLOW, measured=3).is_sure
    assert replace(SLOW, measured=3, step_seconds=11.0).is_sure
    assert replace(SLOW, rest_seconds=50.0).text() == ""
    assert replace(SLOW, budget_seconds=50.0).text() == ""


def test_steps_and_epochs_are_measured_from_the_first_epoch() -> None:
    times = EpochTimes(epochs=10, steps=20, val_steps=6)
    times.begin(0, 0.0)
    for k in range(UNEVEN):
        times.step(10.0 * (k + 1))
    assert (times.step_seconds, times.epoch_seconds) == (None, None)
    for k in range(4):
        times.step(10.0 * UNEVEN + 2.0 * (k + 1))
    assert times.steps_measured == 4
    assert times.step_seconds == 2.0
    assert times.epoch_seconds == pytest.approx(20 * 2.0 + 6 * 2.0 / 3)


def test_a_step_of_each_planned_network_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_estimate, "training_devices", lambda _: _on_cpu())
    for name in ("2d", "3d_cascade_fullres"):
        record = tiny_models.record(name)
        measured = measure_step(record.plan, record.dataset, 20.0)
        assert measured.seconds is not None, measured.reason
        assert measured.seconds > 0
        assert (measured.steps, measured.warmed_up) == (time_estimate.MEASURED, True)
        assert len(measured.row(name, 1000, 250)) == len(header(1000, 250))


def test_what_cannot_be_measured_is_told_and_no_guess_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_estimate, "training_devices", lambda _: _on_cpu())
    record = tiny_models.record()
    hasty = measure_step(record.plan, record.dataset, 1e-9)
    assert (hasty.steps, hasty.warmed_up) == (1, False)
    assert "the first one, which is slower" in hasty.row("3d_fullres", 1000, 250)[2]
    large = replace(record.plan, batch_size=2**15, patch_size=(64, 64, 64))
    refused = measure_step(large, record.dataset, 1.0)
    assert refused.seconds is None
    assert "of memory, and there are" in refused.row("3d_fullres", 1000, 250)[2]
    monkeypatch.setattr(time_estimate, "START_SECONDS", 0.0)
    late = measure_step(record.plan, record.dataset, 0.001)
    assert late == StepTime(None, reason="no step ended within 0.0 s")


def _on_cpu() -> object:
    from segflow.training.training_devices import training_devices

    return training_devices({"accelerator": "cpu", "devices": 1})
