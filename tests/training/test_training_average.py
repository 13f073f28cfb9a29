"""Averages of the weights: what they are, what is saved and shown of them, and that a resumed run has the same."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from training_toy import PowerCut, Toy

from segflow.core.errors import SegflowError
from segflow.exchange.export_model import export_bundle
from segflow.models.open_model import open_model
from segflow.network.build import build_network
from segflow.training.schedule import ConstantRate
from segflow.training.swa_rate import SwaRate
from segflow.training.training_settings import TrainingSettings

RAW = "raw_weights"
EMA: dict[str, Any] = {"average": "ema"}
SWA: dict[str, Any] = {"average": "swa", "average_start": 0.5}
Weights = dict[str, torch.Tensor]


class Recorder(pl.Callback):
    """The network's weights after every step, and during every validation."""

    def __init__(self) -> None:
        self.steps: list[Weights] = []
        self.validated: list[Weights] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.steps.append(_copied(pl_module))

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.validated.append(_copied(pl_module))


def _copied(pl_module: Any) -> Weights:
    return {name: value.detach().clone() for name, value in pl_module.state_dict().items()}


def _stored(toy: Toy, name: str = "fold_0", checkpoint: str = "final") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(toy.run(name).checkpoint(checkpoint), weights_only=True)
    return content


def _equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def batch_norm_network(*args: Any, **options: Any) -> nn.Module:
    return build_network(*args, **options, norm="batch")


def test_without_an_average_a_checkpoint_holds_none(toy: Toy):
    toy.train()
    assert RAW not in _stored(toy)
    with pytest.raises(SegflowError, match=r"holds no raw weights.*leave checkpoint= out"):
        open_model(toy.run().path, checkpoint="raw").read()


def test_a_moving_average_follows_its_formula_and_the_training_does_not_follow_it(toy: Toy):
    toy.train("plain")
    seen = Recorder()
    toy.train("ema", settings=EMA, callbacks=[seen])
    content, plain = _stored(toy, "ema"), _stored(toy, "plain")
    assert _equal(content[RAW], plain["state_dict"])
    c = math.log(0.5) / math.log(0.95)
    for name, average in content["state_dict"].items():
        expected = seen.steps[0][name].clone()
        for n, step in enumerate(seen.steps[1:], 1):
            expected = torch.lerp(expected, step[name], c / (n + c))
        torch.testing.assert_close(average, expected, rtol=1e-6, atol=1e-8)
    assert not _equal(content["state_dict"], content[RAW])
    assert _equal(seen.validated[-1], content["state_dict"])  # of the last epoch


def test_a_limit_of_the_decay_keeps_what_it_says(toy: Toy):
    seen = Recorder()
    toy.train(settings={**EMA, "average_decay": 0.05}, callbacks=[seen])
    name = "network.heads.0.weight"
    expected = seen.steps[0][name].clone()
    for step in seen.steps[1:]:
        expected = torch.lerp(expected, step[name], 0.95)
    torch.testing.assert_close(_stored(toy)["state_dict"][name], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("average", "norm"), [(EMA, "instance"), (EMA, "batch"), (SWA, "batch")])
def test_a_resumed_run_ends_with_the_same_averages(toy: Toy, average: dict[str, Any], norm: str):
    parts = {"network": batch_norm_network} if norm == "batch" else {}
    longer = {"max_epochs": 4}
    toy.train("whole", settings=average, trainer=longer, **parts)
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train("cut", settings=average, trainer=longer, callbacks=[PowerCut(3)], **parts)
    toy.train("cut", settings=average, trainer=longer, **parts)
    whole, cut = _stored(toy, "whole"), _stored(toy, "cut")
    assert _equal(whole["state_dict"], cut["state_dict"])
    assert _equal(whole[RAW], cut[RAW])


def test_a_stop_between_epochs_changes_nothing(toy: Toy):
    class Stop(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                toy.run("stopped").stop_file.touch()

    toy.train("whole", settings=EMA)
    assert not toy.train("stopped", settings=EMA, callbacks=[Stop()]).finished
    assert toy.train("stopped", settings=EMA).finished
    assert _equal(_stored(toy, "whole")["state_dict"], _stored(toy, "stopped")["state_dict"])


def test_a_skipped_step_leaves_an_average_of_numbers(toy: Toy):
    class Spoil(pl.Callback):
        def on_after_backward(self, trainer: pl.Trainer, pl_module: Any) -> None:
            if trainer.global_step == 1:
                next(pl_module.network.parameters()).grad.fill_(math.nan)

    toy.train(settings=EMA, callbacks=[Spoil()])
    assert all(value.isfinite().all() for value in _stored(toy)["state_dict"].values())


def test_of_collected_gradients_only_steps_count(toy: Toy):
    toy.train(settings=EMA, trainer={"accumulate_grad_batches": 3})
    counts = [state["count"] for state in _stored(toy)["callbacks"].values() if "count" in state]
    assert counts == [2]


def test_every_reader_takes_the_average_and_raw_is_to_be_had(toy: Toy, tmp_path: Path):
    toy.train("run/fold_0", settings=EMA)
    content = _stored(toy, "run/fold_0")
    run = toy.folder / "run"
    export_bundle(run, tmp_path / "model.segflow")
    for path, checkpoint, key in (
        (run, "final", "state_dict"),
        (run, "raw", RAW),
        (tmp_path / "model.segflow", "final", "state_dict"),
    ):
        (fold,) = open_model(path, checkpoint=checkpoint).read()
        assert _equal({f"network.{name}": value for name, value in fold.weights.items()}, content[key])


def test_the_mean_of_the_last_epochs_is_their_mean(toy: Toy):
    seen = Recorder()
    toy.train(
        settings=SWA,
        trainer={"max_epochs": 4},
        callbacks=[seen],
        schedule=functools.partial(SwaRate, start=0.5),
    )
    content = _stored(toy)
    for name, average in content["state_dict"].items():
        torch.testing.assert_close(average, (seen.steps[8][name] + seen.steps[11][name]) / 2, rtol=1e-6, atol=1e-8)
    assert _equal(content[RAW], seen.steps[-1])
    assert _equal(seen.validated[0], seen.steps[2])  # before it begins the weights themselves


def test_batch_norm_fits_the_mean_of_the_weights(toy: Toy):
    """Statistics of the mean are those that its activations have, which those of the training do not have."""
    images: list[torch.Tensor] = []

    class Images(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 3:
                images.append(batch.image.clone())

    toy.train(
        settings=SWA,
        trainer={"max_epochs": 4},
        network=batch_norm_network,
        schedule=functools.partial(ConstantRate),
        callbacks=[Images()],
    )
    (fold,) = open_model(toy.run().path).read()
    network = batch_norm_network(toy.record.plan.topology, 1, 3, True)
    network.load_state_dict(dict(fold.weights))
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm3d))
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    with torch.no_grad():
        for image in images:
            network.eval()(image)
    means = torch.stack([one.mean(dim=(0, 2, 3, 4)) for one in seen]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("start", "cycles"), [(0.5, 0), (0.6, 2), (0.75, 1)])
def test_the_rate_stays_up_and_cycles_end_low(start: float, cycles: int):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = SwaRate(optimizer, 20, start=start, cycles=cycles, lowest=0.1)
    factors = [schedule.factor(epoch) for epoch in range(20)]
    first = round(start * 20)
    assert factors[:first] == pytest.approx([(1 - epoch / 20) ** 0.9 for epoch in range(first)])
    held = (1 - start) ** 0.9
    ended = [schedule.ended_cycles(epoch) for epoch in range(20)]
    low = [epoch for epoch in range(20) if ended[epoch] > (ended[epoch - 1] if epoch else 0)]
    if not cycles:
        assert factors[first:] == pytest.approx([held] * (20 - first))
        return
    assert low == [first - 1 + (20 - first) // cycles * k for k in range(1, cycles + 1)]
    assert [factors[epoch] for epoch in low] == pytest.approx([0.1 * held] * cycles)
    assert factors[first] == pytest.approx(held)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"average": "mean"}, r"training\.average is unknown; found mean; expected none \| ema \| swa"),
        ({"average_decay": 1.0}, r"training\.average_decay must lie between 0 and 1.*found 1\.0"),
        ({"average_half_life": 0}, r"training\.average_half_life must be a share"),
        ({"average_start": 800}, r"training\.average_start must be a share of the run.*found 800.*0\.75"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings: dict[str, Any], words: str):
    with pytest.raises(SegflowError, match=words):
        TrainingSettings(**settings)


@pytest.mark.parametrize("options", [{"start": 1.0}, {"cycles": -1}, {"rate": 0.0}, {"lowest": 2.0}])
def test_wrong_rates_are_refused_by_name(options: dict[str, Any]):
    with pytest.raises(SegflowError, match=r"schedule.*" + next(iter(options))):
        SwaRate(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 10, **options)
