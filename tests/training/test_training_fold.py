"""One fold from start to end: what it writes, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import functools
import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from training_toy import CASES, TENSORBOARD, PowerCut, Toy, make_record

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.training_images import ImageFacts, TrainingImages
from segflow.network.build import build_network
from segflow.network.cpu.layers import ChannelsLastUNet
from segflow.preprocessing.provenance import choices_of
from segflow.storage.case_facts import PROVENANCE
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.training.schedule import PolynomialDecay


class WithDropout(nn.Module):
    """Draws from torch's global generator in every step, as dropout and drop path do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return self.inner(nn.functional.dropout(image, 0.3, self.training))


def build_with_dropout(*args: Any, **options: Any) -> nn.Module:
    return WithDropout(build_network(*args, **options))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def trained(toy_factory: Callable[[], Toy]) -> Toy:
    """A toy that was trained to its end, for tests that only look."""
    toy = toy_factory()
    toy.train(loggers=[TENSORBOARD], settings={"picture_every": 1, "picture_count": 2})
    return toy


def test_a_run_leaves_all_its_files_and_no_half_written_ones(trained: Toy):
    run = trained.run()
    names = {file.relative_to(run.path).as_posix() for file in run.path.rglob("*") if file.is_file()}
    wanted = {"run.json", "metrics.csv", "progress.png", "finished.json"}
    wanted |= {f"checkpoints/{name}.ckpt" for name in ("last", "best", "final")}
    assert wanted <= names
    assert not [name for name in names if ".writing" in name]
    assert sum("events" in name for name in names) == 1


def test_record_carries_what_prediction_needs(trained: Toy):
    record = trained.run().read_record()
    assert record.train_cases == trained.record.train_cases
    assert record.mirror_axes == (0, 1, 2)


def test_tensorboard_has_exactly_the_agreed_tags(trained: Toy):
    events = EventAccumulator(str(trained.run().path)).Reload()
    tags = set(events.Tags()["scalars"])
    assert tags == {
        "train/loss", "val/loss", "val/dice/ball", "val/dice/core", "val/dice_mean", "val/dice_ema", "lr",
        "time/data_wait", "time/compute", "time/epoch", "time/training_hours",
    }  # fmt: skip
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1]
    assert [event.value for event in events.Scalars("lr")] == pytest.approx([0.01, 0.01 * 0.5**0.9])
    assert len(events.Images("val/patches")) == 2


def test_table_holds_one_row_an_epoch_and_the_moving_average(trained: Toy):
    with trained.run().metrics_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    first, second = (float(row["val/dice_mean"]) for row in rows)
    assert float(rows[0]["val/dice_ema"]) == pytest.approx(first)
    assert float(rows[1]["val/dice_ema"]) == pytest.approx(0.9 * first + 0.1 * second)
    assert first == pytest.approx((float(rows[0]["val/dice/ball"]) + float(rows[0]["val/dice/core"])) / 2)


@pytest.mark.parametrize("name", ["last", "best", "final"])
def test_checkpoints_hold_tensors_and_plain_values_only(trained: Toy, name: str):
    checkpoint = torch.load(trained.run().checkpoint(name), weights_only=True)
    assert all(key.startswith("network.") for key in checkpoint["state_dict"])


def test_one_log_line_an_epoch(toy: Toy, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="segflow"):
        toy.train()
    lines = [record.message for record in caplog.records if record.name == "segflow.training.monitor"]
    assert len(lines) == 2
    for part in ("epoch 2/2", "train loss", "val loss", "ball", "core", "EMA", "lr", " s"):
        assert part in lines[1]


def test_starting_a_finished_run_returns_at_once(trained: Toy):
    before = trained.run().checkpoint("final").stat().st_mtime_ns
    result = trained.train()
    assert not result.trained
    assert result.finished
    assert result.epochs == 2
    assert result.metrics["val/dice_ema"] >= 0
    assert trained.run().checkpoint("final").stat().st_mtime_ns == before


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(toy: Toy, num_workers: int):
    settings = {"num_workers": num_workers}
    trainer = {"max_epochs": 3}
    toy.train("whole", trainer=trainer, settings=settings, network=build_with_dropout)
    for epoch in (1, 2):
        with pytest.raises(RuntimeError, match="power cut"):
            toy.train(
                "cut", trainer=trainer, settings=settings, network=build_with_dropout, callbacks=[PowerCut(epoch)]
            )
    result = toy.train("cut", trainer=trainer, settings=settings, network=build_with_dropout)
    assert result.epochs == 3
    assert same(toy.weights("whole"), toy.weights("cut"))
    whole, cut = (list(csv.DictReader(toy.run(name).metrics_csv.open())) for name in ("whole", "cut"))
    for tag in ("train/loss", "val/loss", "val/dice_ema", "lr"):
        assert [row[tag] for row in whole] == [row[tag] for row in cut]


def test_number_of_workers_changes_no_weight(toy: Toy):
    toy.train("none", settings={"num_workers": 0})
    toy.train("two", settings={"num_workers": 2})
    assert same(toy.weights("none"), toy.weights("two"))


def test_another_seed_gives_other_weights(toy: Toy):
    toy.train("a", settings={"seed": 0})
    toy.train("b", settings={"seed": 1})
    assert not same(toy.weights("a"), toy.weights("b"))


def test_logging_changes_no_weight(toy: Toy):
    toy.train("quiet")
    toy.train("loud", loggers=[TENSORBOARD], settings={"picture_every": 1})
    assert same(toy.weights("quiet"), toy.weights("loud"))


def test_other_settings_are_refused_and_named(trained: Toy):
    record = replace(trained.record, settings={"optimizer": {"lr": 0.1}, "trainer": {"max_epochs": 2}})
    with pytest.raises(SegflowError, match=r"optimizer.lr was 0.01 and is now 0.1") as caught:
        trained.train(record=record)
    assert "run_name" in str(caught.value)


def test_other_cases_are_refused(trained: Toy):
    with pytest.raises(SegflowError, match="train_cases"):
        trained.train(record=replace(trained.record, train_cases=trained.record.train_cases[1:]))


def test_where_it_runs_may_change(trained: Toy):
    settings = {**trained.record.settings, "training": {"num_workers": 7}, "paths": {"raw": "/elsewhere"}}
    assert trained.train(record=replace(trained.record, settings=settings)).finished


def longer(toy: Toy, epochs: int) -> Any:
    return replace(toy.record, settings={"optimizer": {"lr": 0.01}, "trainer": {"max_epochs": epochs}})


def test_a_longer_run_must_be_asked_for(trained: Toy):
    with pytest.raises(SegflowError, match="extend=true"):
        trained.train(record=longer(trained, 4), trainer={"max_epochs": 4})


def test_an_extended_run_goes_on_from_its_end(toy: Toy):
    toy.train()
    result = toy.train(record=longer(toy, 5), trainer={"max_epochs": 5}, settings={"extend": True})
    assert result.trained
    assert result.epochs == 5
    with toy.run().metrics_csv.open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert rates[:2] == pytest.approx([0.01, 0.01 * 0.5**0.9])
    assert all(rate > 0 for rate in rates)
    assert rates[-1] == pytest.approx(0.01 * 0.2**0.9)
    again = toy.train(record=longer(toy, 5), trainer={"max_epochs": 5}, settings={"extend": True})
    assert not again.trained


def test_an_interrupted_extension_goes_on(toy: Toy):
    toy.train()
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train(record=longer(toy, 5), trainer={"max_epochs": 5}, settings={"extend": True}, callbacks=[PowerCut(3)])
    assert toy.train(record=longer(toy, 5), trainer={"max_epochs": 5}).epochs == 5, "it was asked for once"


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_start_that_trained_no_epoch_does_not_bind_the_next(toy: Toy, when: str):
    broken = functools.partial(PolynomialDecay, warmup_epochs=-1)
    with pytest.raises((SegflowError, RuntimeError), match=r"warmup_epochs|power cut"):
        toy.train(schedule=broken) if when == "before" else toy.train(callbacks=[PowerCut(0)])
    assert toy.train(record=longer(toy, 3), trainer={"max_epochs": 3}).epochs == 3


def test_ctrl_c_and_signals_in_the_first_epoch_do_not_bind_the_next(toy: Toy):
    class Ends(pl.Callback):
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def on_train_batch_start(self, *args: Any) -> None:
            raise self.error

    for error in (KeyboardInterrupt(), SystemExit(143)):
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            toy.train(callbacks=[Ends(error)])
        assert not toy.run().record_file.exists()
    assert toy.train(record=longer(toy, 3), trainer={"max_epochs": 3}).epochs == 3


def test_nothing_is_left_of_a_start_that_was_killed_before_its_first_checkpoint(
    toy: Toy, caplog: pytest.LogCaptureFixture
):
    folder, clean = toy.run(), toy.run("clean")
    folder.write_record(toy.record)  # what is there after kill -9, however far it came
    for name in (
        "metrics.csv",
        "events.out.tfevents.1.old",
        "hparams.yaml",
        ".hydra/config.yaml",
        ".writing-1-last.ckpt",
    ):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_text("old")
    with caplog.at_level("INFO"):
        toy.train(record=longer(toy, 3), trainer={"max_epochs": 3})
    assert "ended before its first checkpoint; this one begins anew" in caplog.text
    toy.train("clean", record=longer(toy, 3), trainer={"max_epochs": 3})
    assert {file.name for file in folder.path.iterdir()} == {file.name for file in clean.path.iterdir()}
    assert same(toy.weights(), toy.weights("clean"))


def test_a_start_that_trained_an_epoch_does_bind_the_next(toy: Toy):
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train(callbacks=[PowerCut(1)])
    with pytest.raises(SegflowError, match="other settings"):
        toy.train(record=longer(toy, 3), trainer={"max_epochs": 3})


def test_a_training_goes_on_though_it_began_without_a_record_of_the_images(toy: Toy):
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train(callbacks=[PowerCut(1)])
    seen = TrainingImages.of([ImageFacts((9, 9, 9), (1.0, 1.0, 1.0), "RAS", ((0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0),))])
    assert toy.train(record=replace(toy.record, images=seen)).finished
    assert toy.run().read_record().images == seen


def note_files(toy: Toy, digest: str, cases: Sequence[str] = CASES) -> None:
    """Let the toy's cases say what they were made from, as preprocessing does."""
    record = toy.record
    choices = choices_of(record.plans, record.plan, record.dataset.labels)
    for case_id in cases:
        file = toy.store.folder / f"{case_id}.json"
        stamps = {"image_0": {"bytes": 1, "time_ns": 1, "digest": digest}}
        file.write_text(json.dumps({**json.loads(file.read_text()), PROVENANCE: {"choices": choices, "files": stamps}}))
    toy.store = PreprocessedStore(toy.store.folder)


def test_every_fold_of_a_run_is_trained_on_the_same_arrays(toy: Toy):
    note_files(toy, "before")
    toy.train()
    assert set(toy.run().read_record().arrays["cases"]) == set(CASES)
    other_fold = replace(toy.record, fold=1, train_cases=CASES[2:], val_cases=CASES[:2])
    toy.train("fold_1", record=other_fold)
    note_files(toy, "after", CASES[:1])
    for name, record in (("fold_0", toy.record), ("fold_2", replace(toy.record, fold=2))):
        with pytest.raises(SegflowError, match=r"fold_0 was trained on other arrays.*1 cases .*\(case_0\)"):
            toy.train(name, record=record)
    note_files(toy, "before", CASES[:1])
    toy.train("fold_2", record=replace(toy.record, fold=2))


def test_arrays_of_other_plans_are_refused_before_anything_starts(toy: Toy):
    note_files(toy, "digest")
    plans = toy.record.plans
    coarse = {**plans.configurations["3d_fullres"], "spacing": [2.0, 2.0, 2.0]}
    record = replace(toy.record, plans=replace(plans, configurations={"3d_fullres": coarse}))
    with pytest.raises(SegflowError, match=r"8 of 8 cases were made by other choices.*Make them anew: segflow prep"):
        toy.train(record=record)
    assert not toy.run().path.exists()


def test_a_run_from_before_arrays_were_noted_goes_on(toy: Toy, caplog: pytest.LogCaptureFixture):
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train(callbacks=[PowerCut(1)])
    assert not toy.run().read_record().arrays
    note_files(toy, "digest")
    with caplog.at_level(logging.INFO):
        assert toy.train().finished
    assert "fold_0 does not say which arrays it was trained on" in caplog.text
    assert not toy.run().read_record().arrays, "what its first epochs were trained on is not known"


def test_best_is_the_epoch_with_the_highest_moving_average(toy: Toy):
    toy.train(trainer={"max_epochs": 4})
    with toy.run().metrics_csv.open() as file:
        averages = [float(row["val/dice_ema"]) for row in csv.DictReader(file)]
    best = torch.load(toy.run().checkpoint("best"), weights_only=True)
    assert best["epoch"] == averages.index(max(averages))


def test_a_crash_while_a_checkpoint_is_written_keeps_the_one_before(toy: Toy, monkeypatch: pytest.MonkeyPatch):
    save = torch.save

    def torn(checkpoint: dict[str, Any], file: Any, **options: Any) -> None:
        if checkpoint["epoch"] < 1:
            save(checkpoint, file, **options)
            return
        file.write_bytes(b"half a checkp")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(SegflowError, match="No space left"):
        toy.train()
    monkeypatch.undo()
    assert torch.load(toy.run().checkpoint("last"), weights_only=True)["epoch"] == 0
    assert {file.name for file in toy.run().checkpoints.iterdir()} == {"last.ckpt", "best.ckpt"}
    toy.train("whole")
    toy.train()
    assert same(toy.weights("whole"), toy.weights())


def test_a_checkpoint_is_written_beside_the_next_step_and_holds_its_own_epoch(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
):
    save, at_end, under_way = torch.save, {}, threading.Event()

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            at_end[trainer.current_epoch] = {name: value.clone() for name, value in pl_module.state_dict().items()}

        def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
            if trainer.current_epoch == 1:  # a forward pass is done, which changes the statistics of a batch norm
                under_way.set()

    def slow(checkpoint: dict[str, Any], file: Any) -> None:
        if checkpoint["epoch"] == 0:
            assert under_way.wait(240), "the next step waited for the file"
        save(checkpoint, file)
        if checkpoint["epoch"] == 0:
            save(checkpoint, toy.folder / "first.ckpt")

    monkeypatch.setattr(torch, "save", slow)
    toy.train(callbacks=[Watch()], network=functools.partial(build_network, norm="batch"))
    first = torch.load(toy.folder / "first.ckpt", weights_only=True)["state_dict"]
    assert any("running_mean" in name for name in first)
    assert same(at_end[0], first)
    assert same(at_end[1], toy.weights())


def test_a_cpu_trains_with_quick_layers_under_the_same_names(toy: Toy):
    kinds: set[type] = set()

    class Watch(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            kinds.update(type(module) for module in pl_module.modules())

    toy.train(callbacks=[Watch()])
    assert ChannelsLastUNet in kinds
    plain = build_network(make_record().plan.topology, 1, 3)
    assert {f"network.{name}" for name in plain.state_dict()} == set(toy.weights())


def test_a_truncated_checkpoint_is_named(toy: Toy):
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train(callbacks=[PowerCut(1)])
    last = toy.run().checkpoint("last")
    content = last.read_bytes()
    last.unlink()
    last.write_bytes(content[: len(content) // 2])
    with pytest.raises(SegflowError, match=r"last\.ckpt.*replace it by a copy of best\.ckpt"):
        toy.train()


def test_a_checkpoint_of_another_network_is_refused(toy: Toy):
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train("small", callbacks=[PowerCut(1)])
    wide = make_record(features=(6, 8))
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train("wide", record=wide, callbacks=[PowerCut(1)])
    toy.run("wide").checkpoint("last").write_bytes(toy.run("small").checkpoint("last").read_bytes())
    with pytest.raises(SegflowError, match="another network"):
        toy.train("wide", record=wide)


def test_what_a_checkpoint_may_not_hold_ends_the_training_at_the_first_one(toy: Toy):
    def noted(groups: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(groups, lr=0.01)
        optimizer.param_groups[0]["note"] = Path("somewhere")
        return optimizer

    with pytest.raises(SegflowError, match=r"cannot be saved.*pathlib"):
        toy.train(optimizer=noted)
    assert not toy.run().checkpoint("last").exists()


def test_a_label_that_no_training_case_has_is_named(toy: Toy, caplog: pytest.LogCaptureFixture):
    description = {**toy.record.dataset.to_json(), "labels": {"background": 0, "ball": 1, "core": 2, "shell": 3}}
    toy.train(record=replace(toy.record, dataset=DatasetDescription.from_json("Dataset999_Toy", description)))
    warned = [record.message for record in caplog.records if record.name == "segflow.training.train_fold"]
    assert f"none of the {len(toy.record.train_cases)} training cases has: shell" in warned


def test_a_fold_without_validation_cases_trains(toy: Toy, caplog: pytest.LogCaptureFixture):
    result = toy.train(record=replace(toy.record, val_cases=()))
    assert result.finished
    assert "val/loss" not in result.metrics
    assert "no validation cases" in caplog.text
    assert not toy.run().checkpoint("best").exists()


def test_missing_cases_are_named_before_anything_starts(toy: Toy):
    with pytest.raises(SegflowError, match="case_99"):
        toy.train(record=replace(toy.record, train_cases=("case_0", "case_99")))
    assert not toy.run().path.exists()


def test_fold_all_uses_every_case_for_both(toy: Toy):
    everything = (*toy.record.train_cases, *toy.record.val_cases)
    assert toy.train(record=replace(toy.record, train_cases=everything, val_cases=everything, fold="all")).finished


def test_a_label_that_no_case_has_gets_no_dice(toy: Toy):
    dataset = replace(
        toy.record.dataset,
        labels=type(toy.record.dataset.labels).from_json({"background": 0, "ball": 1, "core": 2, "absent": 3}),
    )
    dataset = replace(dataset, raw={**dataset.raw, "labels": dataset.labels.to_json()})
    result = toy.train(record=replace(toy.record, dataset=dataset), trainer={"max_epochs": 1})
    assert result.finished


def test_a_batch_of_one_trains(toy: Toy):
    assert toy.train(record=make_record(batch_size=1), trainer={"max_epochs": 1}).finished


def test_limits_count_batches_or_shares(toy: Toy):
    seen: list[int] = []

    class Count(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append(1)

    toy.train("int", trainer={"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1}, callbacks=[Count()])
    assert len(seen) == 1
    toy.train("float", trainer={"max_epochs": 1, "limit_train_batches": 0.016, "limit_val_batches": 0.02},
              callbacks=[Count()])  # fmt: skip
    assert len(seen) == 1 + 4, "a share of 250"
    with pytest.raises(SegflowError, match="limit_train_batches"):
        toy.train("wrong", trainer={"limit_train_batches": 2.5})


def test_validation_every_other_epoch(toy: Toy):
    toy.train(trainer={"max_epochs": 4, "check_val_every_n_epoch": 2})
    with toy.run().metrics_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["val/loss"]) for row in rows] == [False, True, False, True]


def test_benchmark_leaves_seconds_and_no_checkpoint(toy: Toy):
    trainer = {"limit_val_batches": 0, "enable_checkpointing": False}
    assert toy.train(trainer=trainer, settings={"repeat_batch": True}).finished
    assert not toy.run().checkpoints.exists()
    facts = json.loads(toy.run().finished_file.read_text())
    assert facts["fastest_epoch_seconds"] > 0


def test_without_deep_supervision(toy: Toy):
    assert toy.train(settings={"deep_supervision": False}, trainer={"max_epochs": 1}).finished


def test_more_devices_than_the_machine_has(toy: Toy):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SegflowError, match="trainer"):
        toy.train(trainer={"accelerator": "cuda", "devices": 2})


def test_another_optimizer_and_a_schedule_of_torchs_own(toy: Toy):
    result = toy.train(
        optimizer=functools.partial(torch.optim.AdamW, lr=3e-4, amsgrad=True),
        schedule=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    )
    assert result.metrics["lr"] == pytest.approx(1.5e-4)


def test_augmentation_on_the_device_is_repeatable(toy: Toy):
    toy.train("a", settings={"augmentation_device": "device"})
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train("b", settings={"augmentation_device": "device"}, callbacks=[PowerCut(1)])
    toy.train("b", settings={"augmentation_device": "device"})
    assert same(toy.weights("a"), toy.weights("b"))
