"""A cascade takes only what folds predicted of cases that they were not trained on, as they are now."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from test_predict_validation import CPU, store_of

from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.core.splits import Split
from segflow.inference.next_stage import open_previous_stage
from segflow.inference.predict_settings import PredictSettings
from segflow.inference.predict_validation import predict_validation
from segflow.preprocessing.check_arrays import identify_arrays, other_arrays
from segflow.storage.folds import Fold
from segflow.storage.preprocessed_store import PREDICTED_BY, PreprocessedStore

SPLITS = (Split(("b",), ("a",)), Split(("a",), ("b",)))
CASCADE = "3d_cascade_fullres"


class Stages:
    """Two folds of a low resolution, and what a cascade needs of them."""

    def __init__(self, folder: Path) -> None:
        self.run = tiny_models.make_run(folder, "3d_lowres", (0, 1))
        for number, split in enumerate(SPLITS):
            self.write_fold(number, split)
        self.cascade = replace(tiny_models.record(CASCADE), train_cases=("b",), val_cases=("a",))
        self.arrays = store_of(folder / "low", self.fold(0).read_record())
        self.grids = store_of(folder / "full", self.cascade)

    def fold(self, name: int | str) -> Fold:
        return Fold(self.run / f"fold_{name}")

    def write_fold(self, name: int | str, split: Split) -> None:
        record = tiny_models.record("3d_lowres", name)
        self.fold(name).write_record(replace(record, train_cases=split.train, val_cases=split.val))

    def predict(self, names: Sequence[int | str] = (0, 1), settings: PredictSettings = CPU) -> tuple[str, ...]:
        done: list[str] = []
        for name in names:
            report = predict_validation(self.fold(name), self.arrays, settings, next_stages={CASCADE: self.grids})
            assert report.ok
            done += report.done
        return tuple(done)

    def open(self, record: RunRecord | None = None) -> PreprocessedStore:
        def command(folds: Sequence[int]) -> str:
            return f"segflow train -m fold={','.join(map(str, folds))}"

        return open_previous_stage(self.run, record or self.cascade, self.arrays, self.grids, SPLITS, command)

    @property
    def handed(self) -> PreprocessedStore:
        return PreprocessedStore(self.run / "predicted_next_stage" / CASCADE)

    def train_more(self, name: int = 1) -> None:
        file = self.fold(name).checkpoint()
        content = torch.load(file, weights_only=True)
        content["state_dict"] = {key: value * 1.01 for key, value in content["state_dict"].items()}
        torch.save(content, file)


@pytest.fixture
def stages(tmp_path: Path) -> Stages:
    return Stages(tmp_path)


def fold_all(stages: Stages) -> None:
    everything = Split(("a", "b"), ("a", "b"))
    tiny_models.make_run(stages.run.parents[3], "3d_lowres", ("all",))
    stages.write_fold("all", everything)


def test_each_fold_hands_on_its_own_cases_and_says_what_made_them(stages: Stages) -> None:
    stages.predict()
    given = stages.open()
    assert given.case_ids() == ["a", "b"]
    assert [given.open(case).properties[PREDICTED_BY]["settings"]["fold"] for case in given.case_ids()] == [0, 1]
    assert stages.predict() == (), "nothing is made twice"
    everything = replace(stages.cascade, fold="all", train_cases=("a", "b"), val_cases=("a", "b"))
    assert stages.open(everything).case_ids() == ["a", "b"], "fold all takes what the folds predicted"


def test_fold_all_hands_nothing_on_and_the_folds_to_train_are_named(
    stages: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    fold_all(stages)
    assert stages.predict(["all"]) == ("a", "b"), "its own validation is made nonetheless"
    assert stages.handed.case_ids() == []
    assert "fold all was trained on 2 of its validation cases: they are no input" in caplog.text
    with pytest.raises(SegflowError, match=r"2 of 2 cannot be used; found a, b missing.*train -m fold=0,1"):
        stages.open()
    stages.predict([0])
    with pytest.raises(SegflowError, match=r"1 of 2 cannot be used; found b missing.*train -m fold=1$"):
        stages.open()


def retrain(stages: Stages) -> None:
    stages.train_more()


def take_the_weights_away(stages: Stages) -> None:
    stages.fold(1).checkpoint().unlink()


def divide_anew(stages: Stages) -> None:
    stages.write_fold(1, Split(("a", "y"), ("b",)))


def train_on_it(stages: Stages) -> None:
    stages.write_fold(1, Split(("a", "b"), ("b",)))


def plan_anew(stages: Stages) -> None:
    plans = stages.cascade.plans
    coarser = {**plans.configurations["3d_lowres"], "spacing": [5.0, 5.0, 5.0]}
    plans = replace(plans, configurations={**plans.configurations, "3d_lowres": coarser})
    stages.cascade = replace(stages.cascade, plans=plans)


def preprocess_anew(stages: Stages) -> None:
    file = stages.arrays.properties_file("b")
    file.write_text(json.dumps({**json.loads(file.read_text()), "channels": 2}))


def predict_otherwise(stages: Stages) -> None:
    stages.predict([1], PredictSettings(device="cpu", mirroring=False))


def claim_another_fold(stages: Stages) -> None:
    file = stages.handed.properties_file("b")
    content = json.loads(file.read_text())
    content[PREDICTED_BY]["settings"]["fold"] = "../../elsewhere/fold_0"
    file.write_text(json.dumps(content))


PROBLEMS: dict[Callable[[Stages], None], str] = {
    retrain: r"found b of other weights of fold 1 than are there now.*fold=1$",
    take_the_weights_away: r"found b of fold 1, which is not there, or not trained to its end.*fold=1$",
    divide_anew: r"found b of fold 1 of other splits.*fold=1$",
    train_on_it: r"found b of fold 1 of other splits.*fold=1$",
    plan_anew: r"found a of fold 0 of other plans; b of fold 1 of other plans.*fold=0,1$",
    preprocess_anew: r"found b of arrays that were made anew since.*fold=1$",
    predict_otherwise: r"found a, b predicted with different settings of the inference.*fold=0,1$",
    claim_another_fold: r"found b of fold \.\./\.\./elsewhere.*fold=1$",
}


@pytest.mark.parametrize("change", PROBLEMS, ids=lambda change: change.__name__)
def test_what_is_out_of_date_is_refused_and_named(stages: Stages, change: Callable[[Stages], None]) -> None:
    stages.predict()
    change(stages)
    with pytest.raises(SegflowError, match=PROBLEMS[change]):
        stages.open()


def test_a_fold_that_was_trained_longer_hands_on_anew(stages: Stages) -> None:
    stages.predict()
    labels = stages.cascade.dataset.labels
    what = (stages.grids, ("a", "b"), stages.cascade.plans, CASCADE, labels)
    before = identify_arrays(*what, stages.open())
    stages.train_more()
    assert stages.predict() == ("b",)
    after = identify_arrays(*what, stages.open())
    assert other_arrays(before, after) == "1 cases have another prediction as input (b)", "the cascade's folds notice"


def test_inputs_from_before_they_were_stamped_are_taken_with_a_warning_unless_there_is_a_fold_all(
    stages: Stages, caplog: pytest.LogCaptureFixture
) -> None:
    stages.predict()
    for case_id in ("a", "b"):
        file = stages.handed.properties_file(case_id)
        content = json.loads(file.read_text())
        del content[PREDICTED_BY]
        file.write_text(json.dumps(content))
    stages.open()
    assert "2 predictions of '3d_lowres' do not say what made them" in caplog.text
    fold_all(stages)
    with pytest.raises(SegflowError, match=r"it may be fold all.*fold=0,1$"):
        stages.open()
    assert stages.predict() == ("a", "b")
    stages.open()
