"""A training on copies of its arrays is the training on the originals, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from training_toy import Toy, make_parts

from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.training.protocols import TrainResult
from segflow.training.train_fold import train_fold
from segflow.training.training_job import FoldArrays
from segflow.training.training_settings import TrainingSettings


def train(toy: Toy, name: str, scratch: Path | None) -> TrainResult:
    arrays = FoldArrays(PreprocessedStore(toy.store.folder), scratch=scratch)
    knobs = TrainingSettings(num_workers=0, picture_every=0)
    return train_fold(toy.run(name), toy.record, arrays, make_parts({"max_epochs": 2}), knobs)


def test_weights_and_record_are_those_of_the_originals(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    train(toy, "fold_0", None)
    train(toy, "near", tmp_path / "disk")
    copies = list((tmp_path / "disk").glob("*/*/*.json"))
    assert {file.stem for file in copies} == {*toy.record.train_cases, *toy.record.val_cases}
    far, near = toy.weights(), toy.weights("near")
    assert far.keys() == near.keys()
    assert all(torch.equal(far[name], near[name]) for name in far)
    records = [json.loads(toy.run(name).record_file.read_text()) for name in ("fold_0", "near")]
    for record in records:
        assert {"date", "begun"} <= record["machine"].keys()
        record["machine"] = {name: fact for name, fact in record["machine"].items() if name not in ("date", "begun")}
    assert records[0] == records[1]


def test_a_finished_training_copies_nothing(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    train(toy, "fold_0", None)
    assert not train(toy, "fold_0", tmp_path / "disk").trained
    assert not (tmp_path / "disk").exists()


def test_a_training_that_is_continued_takes_the_copies_that_are_there(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    train(toy, "whole", tmp_path / "disk")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "disk").glob("*/*/*")}
    toy.run("fold_0").path.mkdir()
    toy.run("fold_0").stop_file.touch()
    assert not train(toy, "fold_0", tmp_path / "disk").finished
    assert train(toy, "fold_0", tmp_path / "disk").finished
    assert {file: file.stat().st_mtime_ns for file in before} == before
    whole, continued = toy.weights("whole"), toy.weights()
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
