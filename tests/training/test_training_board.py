"""What TensorBoard's own server answers about some runs, with segflow's plug-in."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger
from tensorboard import default, program
from tensorboard.backend import application
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from training_toy import TENSORBOARD, PowerCut, Toy
from werkzeug.test import Client

from segflow.training.board_names import ShortNames
from segflow.training.loggers import log_scores
from segflow.training.run_names import name_on_board

PLACE = "Dataset999_Toy/nnUNetPlans/3d_fullres"
FIRST, SECOND = (f"lr-{lr} 3d_fullres fold_0 in Dataset999_Toy/nnUNetPlans" for lr in ("0.01", "0.1"))


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (f"{PLACE}/default/fold_0", "3d_fullres fold_0 in Dataset999_Toy/nnUNetPlans"),
        (f"{PLACE}/mine/fold_all", "mine 3d_fullres fold_all in Dataset999_Toy/nnUNetPlans"),
        ("2d/mine/fold_1", "mine 2d fold_1"),
        ("mine/fold_1", "mine/fold_1"),
        (".", "."),
        ("a/b/c/d/e", "a/b/c/d/e"),
        ("D/p/2d/optimizer.lr-0.1_loss-dice_ce/fold_0", "lr-0.1_loss-dice_ce 2d fold_0 in D/p"),
        ("D/p/2d/loss-dice_ce_optimizer.lr-0.1/fold_0", "loss-dice_ce_lr-0.1 2d fold_0 in D/p"),
        ("D/p/2d/a_augmentation.steps.low_resolution.probability-0.1/fold_0", "a_probability-0.1 2d fold_0 in D/p"),
        ("D/p/2d/v1.2-x/fold_0", "v1.2-x 2d fold_0 in D/p"),
        ("D/p/2d/default/fold_0/inner", "2d fold_0/inner in D/p"),
    ],
)
def test_names_begin_with_what_differs_and_end_with_the_place(folder: str, name: str):
    assert name_on_board(folder) == name


@pytest.fixture(scope="module")
def outputs(toy_factory: Callable[[], Toy]) -> Path:
    """Two runs of a sweep, one of which was interrupted, and whose last scores are known."""
    toy = toy_factory()
    for lr in (0.01, 0.1):
        run = f"outputs/{PLACE}/optimizer.lr-{lr}/fold_0"
        pictures = {"picture_every": 1, "picture_count": 2}
        parts: dict[str, Any] = {"loggers": [TENSORBOARD], "chosen": {"optimizer.lr": lr, "loss": "dice_ce"}}
        if lr == 0.1:
            with pytest.raises(RuntimeError, match="power cut"):
                toy.train(run, settings=pictures, callbacks=[PowerCut(1)], **parts)
        toy.train(run, settings=pictures, **parts)
        log_scores([TENSORBOARD], toy.run(run).path, {"final/dice_mean": lr, "final/dice/core": float("nan")}, 2)
    return toy.folder / "outputs"


def serve(folder: Path) -> Client:
    """TensorBoard's web server, without a port."""
    plugins = [*default.get_static_plugins(), ShortNames]
    board = program.TensorBoard(plugins=plugins)
    board.configure(["tensorboard", "--logdir", str(folder), "--load_fast=false"])
    events = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(folder))
    events.Reload()
    provider = data_provider.MultiplexerDataProvider(events, str(folder))
    return Client(application.TensorBoardWSGIApp(board.flags, board.plugin_loaders, provider, None, events))


@pytest.fixture(scope="module")
def board(outputs: Path) -> Client:
    return serve(outputs)


def ask(board: Client, page: str, question: Any = None) -> Any:
    answer = board.get(f"/data/{page}") if question is None else board.post(f"/data/{page}", json=question)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return json.loads(answer.get_data(as_text=True))


def test_every_page_calls_runs_by_their_short_names(board: Client):
    assert sorted(ask(board, "runs")) == [FIRST, SECOND]
    for page in ("scalars/tags", "images/tags"):
        assert sorted(ask(board, f"plugin/{page}")) == [FIRST, SECOND]


def test_curves_and_pictures_are_found_under_the_short_name(board: Client):
    curve = ask(board, f"plugin/scalars/scalars?run={FIRST}&tag=val/loss")
    assert [step for _, step, _ in curve] == [0, 1]
    pictures = ask(board, f"plugin/images/images?run={FIRST}&tag=val/patches&sample=0")
    assert [picture["step"] for picture in pictures] == [0, 1]
    picture = board.get(f"/data/plugin/images/individualImage?{pictures[0]['query']}")
    assert picture.get_data().startswith(b"\x89PNG")


def test_runs_whose_short_names_are_equal_are_told_apart(tmp_path: Path):
    for section in ("first", "second"):
        writer = TENSORBOARD(save_dir=str(tmp_path / PLACE / f"{section}.lr-1" / "fold_0"))
        writer.log_metrics({"loss": 1.0}, step=0)
        writer.finalize("success")
    names = ask(serve(tmp_path), "runs")
    assert "lr-1 3d_fullres fold_0 in Dataset999_Toy/nnUNetPlans" in names
    assert len(set(names)) == 2


def test_the_table_of_hyper_parameters_shows_what_differs_first_and_the_last_scores(board: Client):
    columns = ask(board, "plugin/hparams/experiment", {"experimentName": ""})["hparamInfos"]
    assert columns[0]["name"] == "optimizer.lr"
    assert columns[0]["differs"]
    assert {"dataset", "plans", "configuration", "fold", "loss", "batch_size"} <= {column["name"] for column in columns}
    question = {"startIndex": 0, "sliceSize": 10, "allowedStatuses": ["STATUS_SUCCESS"], "colParams": []}
    rows = ask(board, "plugin/hparams/session_groups", question)["sessionGroups"]
    assert len(rows) == 2
    for row in rows:
        scores = {value["name"]["tag"]: value["value"] for value in row["metricValues"]}
        assert scores["final/dice_mean"] == pytest.approx(row["hparams"]["optimizer.lr"])
        assert "final/dice/core" not in scores
        assert {"val/dice_ema", "val/loss", "train/loss", "time/training_hours"} <= scores.keys()


def test_charts_of_all_runs_are_joined_into_one_page(board: Client):
    sections = ask(board, "plugin/custom_scalars/layout")["category"]
    assert [section["title"] for section in sections] == ["Training", "Time and memory"]
    charts = {chart["title"]: chart["multiline"]["tag"] for chart in sections[0]["chart"]}
    assert list(charts)[:3] == ["loss", "Dice of validation patches", "Dice of each label"]
    found = ask(board, f"plugin/custom_scalars/scalars?run={FIRST}&tag={charts['Dice of each label'][0]}")
    assert sorted(found["tag_to_events"]) == ["val/dice/ball", "val/dice/core"]
    both = [ask(board, f"plugin/custom_scalars/scalars?run={FIRST}&tag={tag}") for tag in charts["loss"]]
    assert [list(one["tag_to_events"]) for one in both] == [["train/loss"], ["val/loss"]]


def test_last_scores_leave_a_table_of_the_training_as_it_is(tmp_path: Path):
    table = CSVLogger(str(tmp_path), name="", version="csv")
    table.log_metrics({"loss": 1.0})
    table.finalize("success")
    log_scores([lambda save_dir: CSVLogger(save_dir, name="", version="csv")], tmp_path, {"final/dice_mean": 1.0}, 1)
    assert "loss" in (tmp_path / "csv" / "metrics.csv").read_text()


def test_tensorboard_finds_the_plug_in_of_an_installed_segflow():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (plugin,) = project["entry-points"]["tensorboard_plugins"].values()
    module, _, name = plugin.partition(":")
    assert getattr(importlib.import_module(module), name) is ShortNames
