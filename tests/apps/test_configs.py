"""Every command and the options of its groups compose and fit their settings; leaves can be set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from segflow.apps import _commands, _edge, _settings, main

CONF = Path(__file__).resolve().parents[2] / "conf"
COMMANDS = sorted(file.stem for file in CONF.glob("*.yaml") if not file.stem.startswith("_"))
OWNERS = {"planner": "plan"}
"""Command that a group belongs to where it is not ``train``."""
OPTIONS = [
    (folder.name, file.stem)
    for folder in sorted(CONF.iterdir())
    if folder.is_dir()
    for file in sorted(folder.glob("*.yaml"))
]


def composed(command: str, *overrides: str) -> dict[str, Any]:
    """The composed settings as plain values, which the record took."""
    return _settings.plain(_edge.compose(command, *overrides))


def at(values: dict[str, Any], key: str) -> Any:
    for step in key.split("."):
        values = values[step]
    return values


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_into_its_record(command: str) -> None:
    assert command in main.COMMANDS
    record = _edge.compose(command)
    assert type(record) is _commands.record_of(command)
    for setting in _settings.settings_of(type(record)):
        assert setting.meaning, f"{command}: nothing says what {setting.key} means"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_table_of_contents_holds_no_default_of_its_record(command: str) -> None:
    """Nor does an option of a group: see below."""
    given = yaml.safe_load((CONF / f"{command}.yaml").read_text())
    assert not repeated(given, _settings.defaults_of(_commands.record_of(command)))


def repeated(given: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(defaults.get(key), dict):
            found += [f"{key}.{inner}" for inner in repeated(value, defaults[key])]
        elif key in defaults and defaults[key] == value:
            found.append(key)
    return found


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_repeats_no_default(group: str, option: str) -> None:
    command = OWNERS.get(group, "train")
    own = ["dataset.name=Dataset001_X"] if (group, option) == ("dataset", "raw") else []
    record = _edge.compose(command, f"{group}={option}", *own)
    given = yaml.safe_load((CONF / group / f"{option}.yaml").read_text()) or {}
    builds_on = "defaults" in given
    defaults = _settings.defaults_of(type(record)).get(group, {})
    assert builds_on or not repeated(given, defaults), "a value of the record stands in the YAML again"
    if group == "logger":
        for part in record.logger.values():
            assert callable(part.build())


def test_an_experiment_changes_groups_and_values_and_the_command_line_has_the_last_word() -> None:
    values = composed("train", "experiment=fine_tune", "optimizer.lr=0.002")
    keys = ("trainer.max_epochs", "schedule.warmup_epochs", "optimizer.lr")
    assert [at(values, key) for key in keys] == [250, 20, 0.002]
    assert at(composed("run", "experiment=nnunet"), "augmentation.mirror.keep_sides") is False
    assert at(composed("train"), "augmentation.mirror.keep_sides") is None


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
    assert at(composed("train", override), path) == value


@pytest.mark.parametrize(
    ("typed", "where", "value"),
    [
        ("training.lr_factors={encoder.*: 0.1}", "training.lr_factors", {"encoder.*": 0.1}),
        ("sampling.class_weights={tumor: 3}", "sampling.class_weights", {"tumor": 3}),
        ("sampling.class_weights.tumor=3", "sampling.class_weights", {"tumor": 3}),
    ],
)
def test_keys_of_the_users_own_need_no_mark(typed: str, where: str, value: dict[str, float]) -> None:
    assert at(composed("train", typed), where) == value


@pytest.mark.parametrize(
    "typed",
    [
        *("devices=auto", "devices=2", "devices=[0]", "devices='0,1'", "devices=-1", "accelerator=gpu", "num_nodes=2"),
        *("precision=16", "precision=bf16-mixed", "precision=32", "precision=16-true", "max_epochs=-1"),
        *("limit_train_batches=0.1", "max_time=2h", "max_time={hours:1}", "gradient_clip_val=null", "strategy=ddp"),
        *("deterministic=warn", "profiler=simple", "gradient_clip_algorithm=norm", "detect_anomaly=true"),
    ],
)
def test_the_trainer_takes_what_lightning_takes(typed: str) -> None:
    key, value = typed.split("=", 1)
    assert at(composed("train", f"trainer.{typed}"), f"trainer.{key}") == yaml.safe_load(value.replace(":", ": "))
