"""Every command and the options of its groups compose and fit their settings; leaves can be set."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from segflow.apps import _command_line, _datasets, _edge
from segflow.evaluation.evaluate_settings import EvaluateSettings
from segflow.inference.predict_settings import PredictSettings
from segflow.planning.planner_settings import PlannerSettings
from segflow.postprocessing.postprocess_settings import PostprocessSettings
from segflow.preprocessing.preprocess_settings import PreprocessSettings
from segflow.selection.select_settings import SelectSettings
from segflow.training.training_settings import TrainingSettings

CONF = Path(__file__).resolve().parents[2] / "conf"
COMMANDS = sorted(file.stem for file in CONF.glob("*.yaml") if not file.stem.startswith("_"))
OWNERS = {"planner": "plan"}
"""Command that a group belongs to where it is not ``train``."""

OPTIONS = [
    (folder.name, file.stem)
    for folder in sorted(CONF.iterdir())
    if folder.is_dir()
    for file in sorted(folder.glob("*.yaml"))
    if folder.name in ("configuration", "dataset", "fold", "inference", "logger", "paths", "planner")
]
"""The others are tried by training with them, see ``test_every_option.py``."""
NODES = {
    "paths": _datasets.PathSettings,
    "dataset": _datasets.DatasetSettings,
    "fold": _datasets.FoldSettings,
    "planner": PlannerSettings,
    "preprocessing": PreprocessSettings,
    "training": TrainingSettings,
    "inference": PredictSettings,
    "evaluation": EvaluateSettings,
    "postprocessing": PostprocessSettings,
    "selection": SelectSettings,
}


def composed(command: str, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, overrides=list(overrides))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_and_its_nodes_fit_their_settings(command: str) -> None:
    config = composed(command)
    for name, settings in NODES.items():
        if name in config:
            read = _edge.read(settings, config[name])
            shipped = {str(key) for key in config[name]}
            assert shipped == set(settings.__dataclass_fields__), f"{command}.yaml: {name}"
            assert read is not None


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    config = composed(OWNERS.get(group, "train"), f"{group}='{option}'" if option.isdigit() else f"{group}={option}")
    if group == "dataset" and option == "raw":
        OmegaConf.update(config, "dataset.name", "Dataset001_X")
    node = config.get(group)
    if group in NODES:
        _edge.read(NODES[group], node)
    if group == "logger":
        for inner in node.values():
            assert callable(_edge.build(inner))


def test_an_experiment_changes_groups_and_values_and_the_command_line_has_the_last_word() -> None:
    config = composed("train", "experiment=fine_tune", "optimizer.lr=0.002")
    assert (config.trainer.max_epochs, config.schedule.warmup_epochs, config.optimizer.lr) == (250, 20, 0.002)
    assert composed("run", "experiment=nnunet").augmentation.mirror.keep_sides is False
    assert composed("train").augmentation.mirror.keep_sides is None


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("trainer.max_epochs=7", "trainer.max_epochs", 7),
        ("optimizer.lr=0.5", "optimizer.lr", 0.5),
        ("configuration.batch_size=4", "configuration.batch_size", 4),
        ("configuration.patch_size=[16,16,16]", "configuration.patch_size", [16, 16, 16]),
        ("augmentation.steps.blur.probability=0.9", "augmentation.steps.blur.probability", 0.9),
        ("sampling.foreground_fraction=1.0", "sampling.foreground_fraction", 1.0),
        ("fold.index=7", "fold.index", 7),
    ],
)
def test_leaves_are_overridable(override: str, path: str, value: object) -> None:
    assert OmegaConf.select(composed("train", override), path) == value


@pytest.mark.parametrize(
    ("typed", "where", "value"),
    [
        ("training.lr_factors={encoder.*: 0.1}", "training.lr_factors", {"encoder.*": 0.1}),
        ("sampling.class_weights={tumor: 3}", "sampling.class_weights", {"tumor": 3}),
        ("sampling.class_weights.tumor=3", "sampling.class_weights", {"tumor": 3}),
    ],
)
def test_keys_of_the_users_own_need_no_mark(typed: str, where: str, value: dict[str, float]) -> None:
    config = composed("train", *_command_line.rewrite("train", [typed], [CONF]))
    assert OmegaConf.to_container(OmegaConf.select(config, where)) == value
