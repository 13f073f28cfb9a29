"""The mean of the weights of folds or runs as a model of its own, and what is refused."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch

from segflow.core.errors import SegflowError
from segflow.exchange.average_model import OURS, average_models, mean_weights
from segflow.exchange.import_model import import_bundle
from segflow.inference.predictor import Predictor
from segflow.models.bundle_file import read_bundle
from segflow.models.own_runs import read_run
from segflow.selection.crossval import accumulate_crossval
from segflow.storage.folds import Fold

SPACING = (2.0, 1.0, 1.0)


def _image() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(12, 20, 18)).astype(np.float32)


def _change(run: Path, fold: int, **changes: object) -> None:
    folder = Fold(run / f"fold_{fold}")
    folder.write_record(replace(folder.read_record(), **changes))


@pytest.mark.parametrize("name", ["3d_fullres", "3d_cascade_fullres"])
def test_the_mean_of_folds_is_a_model_that_predicts(tmp_path: Path, name: str) -> None:
    tiny_models.make_run(tmp_path / "home", "3d_lowres", (0, 1))
    run = tiny_models.make_run(tmp_path / "home", name, (0, 1, 2), val_cases=("y",))
    file = average_models([run], tmp_path / "mean.segflow", folds=[0, 2])
    (mean,) = read_bundle(file, configuration=name)
    members = [fold.weights for fold in read_run(run, [0, 2])]
    for key, value in mean.weights.items():
        expected = (members[0][key].double() + members[1][key].double()) / 2
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-7)
    assert mean.record.fold == "all"
    assert [(member["run"], member["fold"]) for member in mean.record.mean_of] == [("default", 0), ("default", 2)]
    assert mean.record.mean_of[0]["weights"] != mean.record.mean_of[1]["weights"]
    predictor = Predictor.load(file, device="cpu")
    assert predictor.folds == ("all",)
    label = predictor.predict(_image(), SPACING)
    imported = import_bundle(file, tmp_path / "elsewhere")[0]
    np.testing.assert_array_equal(Predictor.load(imported, device="cpu").predict(_image(), SPACING), label)


def test_runs_with_other_seeds_are_averaged_too(tmp_path: Path) -> None:
    runs = [tiny_models.make_run(tmp_path, folds=(k,), run_name=f"seed{k}") for k in range(3)]
    (mean,) = read_bundle(average_models(runs, tmp_path / "mean.segflow"))
    assert [(member["run"], member["fold"]) for member in mean.record.mean_of] == [
        ("seed0", 0), ("seed1", 1), ("seed2", 2),
    ]  # fmt: skip


def test_runs_with_another_format_in_memory_and_bundles_are_averaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tiny_models.make_run(tmp_path, folds=(0, 1, 2))
    for fold, memory_format in ((0, "auto"), (1, "contiguous"), (2, "auto")):
        network = {"_target_": OURS, "norm": None, "memory_format": memory_format}
        _change(run, fold, settings={"network": network})
    bundle = average_models([run], tmp_path / "first.segflow", folds=[0, 1])
    caplog.clear()
    _change(run, 2, settings={"network": network, "training": {"initial_weights": "base.segflow"}})
    assert average_models([bundle, run / "fold_2"], tmp_path / "second.segflow").is_file()
    assert "it is not recorded what some of the members started from" in caplog.text


def test_a_mean_is_never_cross_validated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tiny_models.make_run(tmp_path, folds=(0, 1))
    imported = import_bundle(average_models([run], tmp_path / "mean.segflow"), tmp_path / "elsewhere")[0]
    record = json.loads((imported / "fold_all" / "run.json").read_text())
    assert len(record["mean_of"]) == 2
    with pytest.raises(SegflowError, match="a mean of weights, which has no cross-validation"):
        accumulate_crossval(imported, tmp_path)
    with caplog.at_level(logging.INFO):
        Predictor.load(imported, device="cpu")
    assert "mean of 2 trainings: scores on cases of any of them are of seen data" in caplog.text


def test_it_is_told_whether_members_share_their_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tiny_models.make_run(tmp_path, folds=(0, 1))
    average_models([run], tmp_path / "unknown.segflow")
    assert "it is not recorded what the members started from" in caplog.text
    caplog.clear()
    for fold in (0, 1):
        _change(run, fold, settings={"training": {"initial_weights": None}})
    average_models([run], tmp_path / "apart.segflow")
    assert "did not start from the same trained weights" in caplog.text
    caplog.clear()
    for fold in (0, 1):
        _change(run, fold, settings={"training": {"initial_weights": "base.segflow"}})
    average_models([run], tmp_path / "shared.segflow")
    assert not caplog.records


def test_statistics_of_batch_norm_are_averaged_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = {"n.running_mean": torch.tensor([1.0]), "n.num_batches_tracked": torch.tensor(5)}
    two = {"n.running_mean": torch.tensor([2.0]), "n.num_batches_tracked": torch.tensor(7)}
    mean = mean_weights([one, two])
    assert (float(mean["n.running_mean"]), int(mean["n.num_batches_tracked"])) == (1.5, 7)
    run = tiny_models.make_run(tmp_path, folds=(0, 1))
    for fold in (0, 1):
        file = Fold(run / f"fold_{fold}").checkpoint("final")
        content = torch.load(file)
        content["state_dict"]["network.norm.running_mean"] = torch.zeros(2)
        torch.save(content, file)
    average_models([run], tmp_path / "mean.segflow")
    assert "running statistics are averaged too" in caplog.text


def test_what_cannot_be_averaged_is_named(tmp_path: Path) -> None:
    run = tiny_models.make_run(tmp_path, folds=(0,))
    other = tiny_models.make_run(tmp_path, folds=(1,), run_name="regions", regions=True)
    residual = tiny_models.make_run(tmp_path, folds=(1,), run_name="residual", network="residual_unet")
    flat = tiny_models.make_run(tmp_path, "2d", folds=(1,))
    own = tiny_models.make_run(tmp_path, folds=(1,), run_name="own")
    _change(own, 1, settings={"network": {"_target_": "my.Network"}})
    torn = tiny_models.make_run(tmp_path, folds=(1,), run_name="torn")
    file = Fold(torn / "fold_1").checkpoint("final")
    content = torch.load(file)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = content["state_dict"][name][:1]
    torch.save(content, file)
    for models, text in (
        ([run], "at least two folds"),
        ([run, run], "named twice"),
        ([run, other], r"regions.* has other labels than .*default"),
        ([run, residual], r"residual.* has other plans than .*default"),
        ([run, flat], r"2d.* has other configuration than"),
        ([run, own], r"own.* has other network than"),
        ([run, torn], rf"another network than .*{name.removeprefix('network.')} is"),
    ):
        with pytest.raises(SegflowError, match=text):
            average_models(models, tmp_path / "mean.segflow")
    assert not (tmp_path / "mean.segflow").exists()
    (tmp_path / "mean.segflow").touch()
    with pytest.raises(SegflowError, match="exists already"):
        average_models([run, other], tmp_path / "mean.segflow")
