"""A fold of cases that lack labels: it learns the others, and tells nothing of what no validation case has."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from training_toy import CASES, PATCH, Toy, make_case

from segflow.core.dataset import DatasetDescription
from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.loss.compound import DiceCrossEntropy


def _with(record: RunRecord, present: dict[str, Any]) -> RunRecord:
    raw = {**record.dataset.raw, "labels_present": present}
    return replace(record, dataset=DatasetDescription.from_json(record.dataset.name, raw))


def _without_core(toy: Toy, case_ids: tuple[str, ...]) -> None:
    for seed, case_id in enumerate(CASES):
        if case_id in case_ids:
            case = make_case(case_id, seed)
            case.label[case.label == 2] = 0
            toy.store.write(replace(case, foreground_locations={1: case.foreground_locations[1]}), PATCH)


def test_a_fold_of_whole_cases_is_trained_as_before(toy: Toy) -> None:
    toy.train("plain")
    toy.train("told", record=_with(toy.record, {"another_*": ["ball"]}))
    first, second = toy.weights("plain"), toy.weights("told")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_no_validation_case_tells_has_no_score_and_changes_no_loss(toy: Toy) -> None:
    lacking = (CASES[0], CASES[1], *toy.record.val_cases)
    _without_core(toy, lacking)
    result = toy.train(record=_with(toy.record, {case_id: ["ball"] for case_id in lacking}))
    assert math.isfinite(result.metrics["train/loss"])
    assert math.isfinite(result.metrics["val/dice/ball"])
    assert math.isnan(result.metrics.get("val/dice/core", math.nan))


def test_smoothed_targets_are_refused(toy: Toy) -> None:
    smoothed = functools.partial(DiceCrossEntropy, label_smoothing=0.1)
    with pytest.raises(SegflowError, match=r"label_smoothing gives each label a share of each voxel.*loss=dice_ce"):
        toy.train(record=_with(toy.record, {CASES[0]: ["ball"]}), loss=smoothed)
