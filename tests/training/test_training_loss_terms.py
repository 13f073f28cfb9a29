"""Blended losses in a training: weights by its progress, exact after an interruption, and their curves."""

from __future__ import annotations

import csv
from functools import partial

import pytest
import torch
from training_toy import PowerCut, Toy

from segflow.core.errors import SegflowError
from segflow.loss.blend import Blend
from segflow.loss.compound import DiceCrossEntropy
from segflow.loss.surface_losses import Boundary

TERMS = {
    "dice_ce": {"loss": DiceCrossEntropy},
    "boundary": {"loss": partial(Boundary, distance_unit="mm"), "weight": {"start": 0.0, "end": 1.0}},
}
BLEND = partial(Blend, terms=TERMS)
FOUR = {"max_epochs": 4, "limit_train_batches": 2, "limit_val_batches": 1}


def column(toy: Toy, name: str, tag: str) -> list[str]:
    with toy.run(name).metrics_csv.open() as file:
        return [row[tag] for row in csv.DictReader(file)]


def test_weights_rise_over_the_training_and_go_on_exactly_after_an_interruption(toy: Toy) -> None:
    toy.train("whole", trainer=FOUR, loss=BLEND)
    assert [float(value) for value in column(toy, "whole", "loss_weight/boundary")] == [0, 0.25, 0.5, 0.75]
    assert column(toy, "whole", "train/loss/boundary")[0] == ""  # not computed without a weight
    assert all(column(toy, "whole", "val/loss/dice_ce"))
    row = {tag: float(column(toy, "whole", tag)[-1]) for tag in ("val/loss", "val/loss/dice_ce", "val/loss/boundary")}
    assert row["val/loss"] == pytest.approx(row["val/loss/dice_ce"] + 0.75 * row["val/loss/boundary"], rel=1e-4)
    with pytest.raises(RuntimeError, match="power cut"):
        toy.train("cut", trainer=FOUR, loss=BLEND, callbacks=[PowerCut(2)])
    toy.train("cut", trainer=FOUR, loss=BLEND)
    for tag in ("loss_weight/boundary", "train/loss/boundary", "train/loss"):
        assert column(toy, "cut", tag) == column(toy, "whole", tag)
    weights = toy.weights("cut")
    assert all(torch.equal(value, weights[name]) for name, value in toy.weights("whole").items())


def test_within_a_time_budget_weights_follow_the_time(toy: Toy) -> None:
    toy.train(trainer=FOUR | {"max_epochs": 1000, "max_time": "4s"}, loss=BLEND)
    weights = [float(value) for value in column(toy, "fold_0", "loss_weight/boundary")]
    assert weights == sorted(weights)
    assert weights[-1] > 0.2  # by epochs it would be near 0


def test_distances_cannot_be_made_on_the_device(toy: Toy) -> None:
    with pytest.raises(SegflowError, match="needs distance maps"):
        toy.train(loss=Boundary, settings={"augmentation_device": "device"})
