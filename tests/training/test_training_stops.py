"""How a training ends early: by a person, a signal, a loss that is no number, a dead worker, a budget."""

from __future__ import annotations

import csv
import errno
import functools
import itertools
import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from training_toy import PowerCut, Toy

from segflow.core.errors import NoSpaceError, SegflowError
from segflow.loss.compound import DiceCrossEntropy
from segflow.training.loader import EpochLoader, choose_workers, fit_workers, name_dead_worker
from segflow.training.protocols import LossFactory, TrainResult
from segflow.training.schedule import PolynomialDecay

SCRIPT = """
import sys
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)
from collections.abc import Callable
from pathlib import Path
from training_toy import Toy, Slow
Toy(Path({folder!r})).train(trainer={{"max_epochs": 3}}, callbacks=[Slow()])
"""


class TurnsBad(nn.Module):
    """A loss that is no number from the n-th training step on, for some steps."""

    def __init__(self, loss: nn.Module, calls: int, steps: int) -> None:
        super().__init__()
        self.loss = loss
        self.left = calls
        self.steps = steps

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.left -= self.training
        value = self.loss(logits, target)
        return value * torch.nan if -self.steps <= self.left < 0 else value


def turns_bad(after: int, steps: int) -> LossFactory:
    return lambda labels, batch_dice: TurnsBad(DiceCrossEntropy(labels, batch_dice), after, steps)


class Weights(pl.Callback):
    """Notes the weights after every step."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.steps.append(torch.cat([p.detach().flatten() for p in pl_module.parameters()]))


class WithScaler(pl.Callback):
    """The mixed precision that Lightning gives to a GPU, on the CPU."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_a_step_whose_loss_is_no_number_changes_nothing(toy: Toy, precision: str, caplog: pytest.LogCaptureFixture):
    seen = Weights()
    half = precision == "16-mixed"
    options = {} if half else {"precision": precision}
    result = toy.train(loss=turns_bad(1, 1), trainer=options, callbacks=[seen, *[WithScaler()] * half])
    before, bad, after, *_ = seen.steps
    assert torch.equal(before, bad)
    assert not torch.equal(bad, after)
    assert all(weights.isfinite().all() for weights in seen.steps)
    [line] = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert "epoch 1: 1 of 3 steps were skipped" in line
    assert "batch 2; cases case_" in line
    assert result.finished
    losses = [float(row["train/loss"]) for row in csv.DictReader(toy.run().metrics_csv.open())]
    assert all(math.isfinite(loss) for loss in losses), "the mean of the steps that counted"


def test_a_gradient_that_is_no_number_is_skipped_too(toy: Toy, caplog: pytest.LogCaptureFixture):
    class Overflow(pl.Callback):
        def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.global_step == 1:
                next(pl_module.parameters()).grad.mul_(torch.inf)  # type: ignore[union-attr]

    seen = Weights()
    assert toy.train(callbacks=[Overflow(), seen]).finished
    assert torch.equal(seen.steps[0], seen.steps[1])
    assert "1 of 3 steps were skipped" in caplog.text


def test_a_gradient_whose_square_is_too_large_for_a_float_is_a_number(toy: Toy, caplog: pytest.LogCaptureFixture):
    class Large(pl.Callback):
        def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            next(pl_module.parameters()).grad.fill_(1e30)  # type: ignore[union-attr]

    assert toy.train(callbacks=[Large()]).finished
    assert "skipped" not in caplog.text


def test_too_many_in_a_row_end_the_training(toy: Toy):
    with pytest.raises(SegflowError, match=r"nan in epoch 2, batch 1, as in the 2 steps before"):
        toy.train(loss=turns_bad(1, 9), settings={"skip_limit": 2})


def test_nan_stops_and_names_the_cases(toy: Toy):
    with pytest.raises(SegflowError, match="epoch 2, batch 2") as caught:
        toy.train(loss=turns_bad(4, 9), settings={"skip_limit": 0})
    saved = json.loads((toy.run().path / "nan_batch.json").read_text())
    assert (saved["epoch"], saved["batch"]) == (1, 1)
    assert set(saved["cases"]) <= set(toy.record.train_cases)
    assert all(case in str(caught.value) for case in saved["cases"])
    assert torch.load(toy.run().checkpoint("last"), weights_only=True)["epoch"] == 0
    assert "last.ckpt is from before this epoch" in str(caught.value)
    assert "lower optimizer.lr. " in str(caught.value)  # it is in single precision already


def test_nan_in_half_precision_advises_single_precision(toy: Toy):
    with pytest.raises(SegflowError, match=r"lower optimizer\.lr, or set trainer\.precision=32\. "):
        toy.train(loss=turns_bad(0, 9), settings={"skip_limit": 0}, trainer={"precision": "bf16-mixed"})


def test_nan_in_the_first_epoch_speaks_of_no_checkpoint(toy: Toy):
    with pytest.raises(SegflowError, match="epoch 1, batch 1") as caught:
        toy.train(loss=turns_bad(0, 9), settings={"skip_limit": 0})
    assert "last.ckpt" not in str(caught.value)


def test_stop_file_ends_after_the_epoch_and_the_same_command_goes_on(toy: Toy):
    toy.train("whole", trainer={"max_epochs": 3})

    class AskToStop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.current_epoch == 1:
                toy.run().stop_file.touch()

    stopped = toy.train(trainer={"max_epochs": 3}, callbacks=[AskToStop()])
    assert (stopped.finished, stopped.epochs) == (False, 2)
    assert toy.run().checkpoint("final").is_file(), "a stopped run can predict"
    assert not toy.run().is_finished()
    assert not toy.run().stop_file.exists()
    assert toy.train(trainer={"max_epochs": 3}).finished
    whole, resumed = toy.weights("whole"), toy.weights()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NAME": "train",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


def start(folder: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[str], Toy]:
    toy = Toy(folder)
    code = SCRIPT.format(here=str(Path(__file__).parent), folder=str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    deadline = time.monotonic() + 240
    while not toy.run().checkpoint("last").is_file() and time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(process.stderr.read() if process.stderr else "")
        time.sleep(0.05)
    return process, toy


@pytest.mark.parametrize(
    ("number", "code", "environment"),
    [(signal.SIGTERM, 143, {}), (signal.SIGINT, 130, {}), (signal.SIGKILL, -9, {}), (signal.SIGUSR1, 143, SLURM)],
    ids=["SIGTERM", "SIGINT", "SIGKILL", "SLURM's warning"],
)
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, number: int, code: int, environment: dict[str, str]):
    process, toy = start(tmp_path, environment)
    process.send_signal(number)
    _, said = process.communicate(timeout=240)
    assert process.returncode == code, said
    assert not toy.run().is_finished()
    toy.train(trainer={"max_epochs": 3})
    toy.train("whole", trainer={"max_epochs": 3})
    whole, resumed = toy.weights("whole"), toy.weights()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


class Fills(pl.Callback):
    """Meets a full disk in the second epoch, as any logger may."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.current_epoch == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_with_the_folder_and_the_same_call_goes_on(toy: Toy):
    with pytest.raises(NoSpaceError, match=r"cannot write into .*fold_0: No space left.*run the same command again"):
        toy.train(callbacks=[Fills()])
    assert torch.load(toy.run().checkpoint("last"), weights_only=True)["epoch"] == 0
    assert toy.train().finished


def test_a_checkpoint_that_cannot_be_written_does_not_replace_the_one_before(toy: Toy):
    class NoRoom(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.current_epoch == 1:
                resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(SegflowError, match=r"cannot write .*last\.ckpt: File too large"):
            toy.train(callbacks=[NoRoom()], trainer={"max_epochs": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert torch.load(toy.run().checkpoint("last"), weights_only=True)["epoch"] == 0
    assert not list(toy.run().checkpoints.glob(".writing-*"))


class Deadly(torch.utils.data.Dataset[int]):
    """Kills the process that reads batch 3 of it."""

    def __getitem__(self, position: tuple[int, int]) -> int:
        if position[1] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return position[1]


def test_a_killed_worker_is_named_within_ten_seconds():
    loader = EpochLoader(Deadly(), batches=5, epoch=lambda: 0, workers=1, pin_memory=False)
    arrivals = [time.monotonic()]
    with pytest.raises(RuntimeError) as caught:
        arrivals.extend(time.monotonic() for _ in loader)
    assert time.monotonic() - arrivals[-1] < 10
    loader.close()
    error = name_dead_worker(caught.value, 0)
    assert error is not None
    assert "memory" in str(error)
    assert "num_workers" in str(error)


def test_batches_that_need_more_open_files_than_there_may_be_are_told():
    said = "Too many open files. Communication with the workers is no longer possible."  # torch's own words
    assert "ulimit -n" in str(name_dead_worker(RuntimeError(said), 0))


def test_other_errors_are_no_dead_worker():
    assert name_dead_worker(RuntimeError("shapes do not match"), 0) is None
    assert name_dead_worker(ValueError("DataLoader worker (pid 1) is killed by signal: Killed."), 0) is None


class Unsendable:
    def __reduce__(self) -> tuple[Any, ...]:
        raise OSError(24, "Too many open files")


class CannotBeSent(torch.utils.data.Dataset[Any]):
    def __getitem__(self, position: tuple[int, int]) -> Any:
        return Unsendable() if position[1] == 1 else position[1]


def test_a_batch_that_cannot_be_sent_is_not_waited_for():
    loader = EpochLoader(CannotBeSent(), batches=3, epoch=lambda: 0, workers=1, pin_memory=False)
    with pytest.raises(RuntimeError) as caught:
        list(loader)
    assert "a data worker died" in str(name_dead_worker(caught.value, 0))
    loader.close()


class Large(torch.utils.data.Dataset[torch.Tensor]):
    """A batch larger than any file that the process may write."""

    def __getitem__(self, position: tuple[int, int]) -> torch.Tensor:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        return torch.zeros(2**16)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="the system keeps shared memory elsewhere")
def test_a_batch_without_room_in_shared_memory_is_told_with_the_way_out():
    loader = EpochLoader(Large(), batches=3, epoch=lambda: 0, workers=1, pin_memory=False)
    with pytest.raises(SegflowError, match=r"shared memory.*--shm-size.*num_workers"):
        next(iter(loader))
    loader.close()


def test_workers_whose_batches_do_not_fit_are_refused_or_not_started(caplog: pytest.LogCaptureFixture):
    def needed(workers: int) -> int:
        return 100 * workers

    assert fit_workers(4, needed, None, wanted=4) == 4
    assert fit_workers(4, needed, 400, wanted=4) == 4
    with pytest.raises(SegflowError, match=r"found 250 B free.*expected 400 B.*--shm-size.*num_workers=2"):
        fit_workers(4, needed, 250, wanted=4)
    assert fit_workers(4, needed, 250, wanted=-1) == 2
    assert "2 data workers instead of 4" in caplog.text
    assert fit_workers(4, needed, 50, wanted=-1) == 0


class Broken(torch.utils.data.Dataset[int]):
    def __getitem__(self, position: tuple[int, int]) -> int:
        raise SegflowError("the array is damaged", case="case_7")


def test_an_error_in_a_worker_arrives_as_it_was():
    loader = EpochLoader(Broken(), batches=5, epoch=lambda: 0, workers=1, pin_memory=False)
    with pytest.raises(SegflowError) as caught:
        next(iter(loader))
    assert str(caught.value) == "case 'case_7': the array is damaged"
    loader.close()


class Positions(torch.utils.data.Dataset[tuple[int, int]]):
    def __getitem__(self, position: tuple[int, int]) -> tuple[int, int]:
        return position


def positions(loader: EpochLoader) -> list[tuple[int, int]]:
    return [(int(epoch), int(index)) for epoch, index in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_each_epoch_its_own_batches_from_wherever_it_starts(workers: int):
    epoch = 4
    loader = EpochLoader(Positions(), batches=3, epoch=lambda: epoch, workers=workers, pin_memory=False)
    assert positions(loader) == [(4, 0), (4, 1), (4, 2)]
    epoch = 5
    assert positions(loader) == [(5, 0), (5, 1), (5, 2)]
    epoch = 9
    assert positions(loader) == [(9, 0), (9, 1), (9, 2)]
    loader.close()


def test_automatic_workers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("segflow.training.loader.processor_count", lambda: 2)
    assert choose_workers(-1, on_gpu=False, processes=1) == 0
    assert choose_workers(-1, on_gpu=True, processes=1) == 1
    assert choose_workers(3, on_gpu=False, processes=1) == 3
    monkeypatch.setattr("segflow.training.loader.processor_count", lambda: 64)
    assert choose_workers(-1, on_gpu=True, processes=4) == 12


class OwnTime:
    """The time module of one file: everybody else's clock goes on, by which processes are waited for."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic


def test_a_time_budget_ends_the_schedule_with_the_time(toy: Toy):
    class Clock(pl.Callback):
        """An epoch takes 10 s of a clock of ours."""

        def on_train_batch_end(self, *args: Any) -> None:
            clock[0] += 10 / 3

    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segflow.training.time_budget.time", OwnTime(lambda: clock[0]))
        result = toy.train(
            trainer={"max_epochs": 1000, "max_time": "1m 40s", "limit_val_batches": 0}, callbacks=[Clock()]
        )
    assert result.finished
    assert result.epochs == 10
    assert result.metrics["lr"] == pytest.approx(0.01 * 0.1**0.9)


def test_a_run_that_its_time_ended_goes_on_with_more_of_it(toy: Toy, caplog: pytest.LogCaptureFixture):
    class Clock(pl.Callback):
        """An epoch takes 10 s of a clock of ours."""

        def on_train_batch_end(self, *args: Any) -> None:
            clock[0] += 10 / 3

    def train(max_time: str, extend: bool) -> TrainResult:
        return toy.train(
            trainer={"max_epochs": 1000, "max_time": max_time, "limit_val_batches": 0},
            settings={"extend": extend},
            callbacks=[Clock()],
        )

    clock = [0.0]
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr("segflow.training.time_budget.time", OwnTime(lambda: clock[0]))
        assert train("100s", False).epochs == 10
        assert not train("100s", True).trained
        assert not train("300s", False).trained
        assert "trainer.max_time ended it" in caplog.text
        longer = train("300s", True)
    assert (longer.trained, longer.finished, longer.epochs) == (True, True, 30)
    rates = [float(row["lr"]) for row in csv.DictReader(toy.run().metrics_csv.open())]
    whole = [0.01 * (1 - epoch / 30) ** 0.9 for epoch in range(30)]
    assert rates[10] == pytest.approx(0), "no jump from the end of the first schedule"
    assert rates[10] < rates[11] < rates[12] == pytest.approx(whole[12])
    assert rates[12:] == pytest.approx(whole[12:])


class StepClock(pl.Callback):
    """A training step takes 1 s of a clock of ours, a validation step 2 s; notes moment and rate of each step."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rates: dict[float, float] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self.rates[self.now] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, *args: Any) -> None:
        self.now += 1.0

    def on_validation_batch_end(self, *args: Any) -> None:
        self.now += 2.0

    def train(self, toy: Toy, name: str, max_time: str, *more: pl.Callback, **changes: Any) -> TrainResult:
        trainer = {"max_epochs": 1000, "max_time": max_time, "limit_train_batches": 250, "limit_val_batches": 3}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("segflow.training.time_budget.time", OwnTime(lambda: self.now))
            return toy.train(name, trainer=trainer | changes.pop("trainer", {}), callbacks=[self, *more], **changes)


def test_a_budget_shorter_than_an_epoch_has_the_whole_schedule_in_it(toy: Toy, caplog: pytest.LogCaptureFixture):
    clock = StepClock()
    schedule = functools.partial(PolynomialDecay, warmup_epochs=100)
    result = clock.train(toy, "short", "40s", schedule=schedule)
    assert (result.finished, result.epochs) == (True, 1)
    assert result.metrics["val/dice_mean"] >= 0, "the patches of the validation are scored"
    # Before the first validation a step of it is taken for a third of a training step.
    assert len(clock.rates) == 39
    assert clock.now == 39 + 3 * 2
    steps = [clock.rates[float(n)] for n in range(39)]
    assert steps[0] == 0
    assert steps[:5] == sorted(steps[:5])
    assert max(steps) == pytest.approx(0.01, rel=0.05)
    assert steps[5:] == sorted(steps[5:], reverse=True)
    assert steps[-1] == pytest.approx(0.01 * (1 / 39 / 0.9) ** 0.9)
    assert json.loads((toy.run("short").path / "finished.json").read_text())["fastest_epoch_seconds"] is None
    assert not clock.train(toy, "short", "40s", schedule=schedule).trained


def test_later_epochs_leave_the_time_that_a_validation_took(toy: Toy):
    clock = StepClock()
    result = clock.train(toy, "two", "100s", trainer={"limit_train_batches": 50})
    assert result.epochs == 2
    assert len(clock.rates) == 50 + 38, "two validations of 6 s"
    assert clock.now == 100
    facts = json.loads((toy.run("two").path / "finished.json").read_text())
    first, last = (float(row["time/epoch"]) for row in csv.DictReader(toy.run("two").metrics_csv.open()))
    assert facts["fastest_epoch_seconds"] == pytest.approx(first), f"the second one, of {last} s, was cut short"


@pytest.mark.parametrize("cut", [1, 2])
def test_a_budget_goes_on_where_an_interruption_left_it(toy: Toy, cut: int):
    whole, parts = StepClock(), StepClock()
    options = {"limit_train_batches": 20}
    whole.train(toy, "whole", "60s", trainer=options)
    with pytest.raises(RuntimeError, match="power cut"):
        parts.train(toy, "cut", "60s", PowerCut(cut), trainer=options)
    parts.now = 26.0 * cut  # what was lost does not count
    parts.train(toy, "cut", "60s", trainer=options)
    assert parts.rates == pytest.approx(whole.rates)
    ended, cut_off = toy.weights("whole"), toy.weights("cut")
    assert all(torch.equal(ended[name], cut_off[name]) for name in ended)


def test_a_run_that_its_time_ended_within_an_epoch_goes_on_with_the_next_one(toy: Toy):
    clock = StepClock()
    clock.train(toy, "longer", "30s")
    ended = clock.now
    result = clock.train(toy, "longer", "90s", settings={"extend": True})
    assert (result.trained, result.finished, result.epochs) == (True, True, 2)
    later = [rate for at, rate in clock.rates.items() if at >= ended]
    assert clock.now == 90
    assert later[0] < 0.001, "no jump"
    assert later[:5] == sorted(later[:5])
    assert later[5:] == sorted(later[5:], reverse=True)


def test_a_validation_that_leaves_no_time_for_training_is_said(toy: Toy, caplog: pytest.LogCaptureFixture):
    clock = StepClock()
    assert clock.train(toy, "much", "12s", trainer={"limit_val_batches": 40}).epochs == 1
    assert len(clock.rates) == 9
    assert "trainer.limit_val_batches=3 leaves time for training" in caplog.text


def test_a_run_whose_epochs_end_before_its_time_has_their_schedule(toy: Toy):
    clock = StepClock()
    result = clock.train(toy, "plenty", "2h", trainer={"max_epochs": 4, "limit_train_batches": 3})
    assert (result.finished, result.epochs) == (True, 4)
    assert list(clock.rates.values()) == pytest.approx([0.01 * (1 - step / 12) ** 0.9 for step in range(12)])


def test_a_run_that_a_callback_ended_is_not_said_to_be_out_of_time(toy: Toy, caplog: pytest.LogCaptureFixture):
    class EndsIt(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    options = {"max_epochs": 5, "max_time": "2h"}
    assert toy.train(trainer=options, callbacks=[EndsIt()]).epochs == 2
    with caplog.at_level(logging.INFO):
        again = toy.train(trainer=options | {"max_time": "3h"}, settings={"extend": True})
    assert (again.trained, again.finished) == (False, True)
    assert "ended early, after 2 of 5 epochs" in caplog.text
    assert "max_time" not in caplog.text


def test_without_the_time_budget_a_run_goes_on_to_the_end_of_its_epochs(toy: Toy):
    """The budget moved the end of the schedule; what is trained after it must not have a rate of 0."""
    seconds = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segflow.training.time_budget.time", OwnTime(lambda: float(next(seconds))))
        with pytest.raises(RuntimeError, match="power cut"):
            toy.train(trainer={"max_epochs": 8, "max_time": "200s"}, callbacks=[PowerCut(2)])
    assert toy.train(trainer={"max_epochs": 8}).metrics["lr"] == pytest.approx(0.01 * 0.125**0.9)


@pytest.mark.parametrize("options", [{"enable_checkpointing": False}, {"fast_dev_run": 2}])
def test_without_checkpoints_the_start_says_what_will_be_missing(
    toy: Toy, options: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    result = toy.train(trainer=options)
    assert "no checkpoint will be written: the run cannot go on" in caplog.text
    assert (result.finished, result.has_weights) == (True, False)
    assert not list(toy.run().path.rglob("*.ckpt"))
    assert not toy.run().is_finished()


def test_a_run_with_checkpoints_is_not_trained_past_them(toy: Toy):
    toy.train()
    before = toy.run().checkpoint("final").read_bytes()
    with pytest.raises(SegflowError, match="has checkpoints, and this training would write none"):
        toy.train(trainer={"enable_checkpointing": False, "max_epochs": 3}, settings={"extend": True})
    assert toy.run().checkpoint("final").read_bytes() == before
