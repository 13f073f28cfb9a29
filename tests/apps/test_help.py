"""Help teaches: every setting of every command with its default and its meaning, and nothing of other commands."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import pytest
from apps_commands import start

from segflow.apps import _catalogue, _commands, _help, _settings, _shipped
from segflow.apps._purposes import COMMANDS

CONF = Path(__file__).resolve().parents[2] / "conf"
FOLDERS = [CONF]


def options_of_commands() -> list[tuple[str, str, str]]:
    """Command, group and option, each pair of group and option once."""
    seen = {}
    for command in COMMANDS:
        for group in _catalogue.choices(command, FOLDERS):
            for option in _shipped.options(group.partition("@")[0], FOLDERS):
                seen.setdefault((group, option), command)
    return [(command, group, option) for (group, option), command in seen.items()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_of_a_command_has_a_meaning(command: str) -> None:
    entries = _catalogue.settings(command, FOLDERS)
    assert not [entry.key for entry in entries if not entry.meaning]


@pytest.mark.parametrize(("command", "group", "option"), options_of_commands())
def test_every_setting_of_an_option_has_a_meaning(command: str, group: str, option: str) -> None:
    key = _catalogue.choices(command, FOLDERS)[group][0]
    entries = _catalogue.settings(command, FOLDERS, {group: option})
    assert not [entry.key for entry in entries if entry.key.startswith(f"{key}.") and not entry.meaning]


@pytest.mark.parametrize("group", sorted(folder.name for folder in CONF.iterdir() if folder.is_dir()))
def test_every_option_says_what_it_is_for(group: str) -> None:
    options = _shipped.options(group, FOLDERS)
    assert len(options) == 1 or group == "fold" or all(_shipped.purpose(group, name, FOLDERS) for name in options)


@pytest.mark.parametrize(("command", "group", "option"), options_of_commands())
def test_no_option_repeats_a_default_of_the_record(command: str, group: str, option: str) -> None:
    own = _shipped.content(CONF / group.partition("@")[0] / f"{option}.yaml")
    key = _catalogue.choices(command, FOLDERS)[group][0]
    base = _settings.defaults_of(_commands.record_of(command)).get(key)
    below = _catalogue.inherited_content(group.partition("@")[0], option, FOLDERS)
    if isinstance(base, dict) and "_target_" not in own:
        assert not repeated(own, {**base, **below})


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_file_repeats_a_default_of_the_record(command: str) -> None:
    own = _shipped.content(CONF / f"{command}.yaml")
    without_own = _catalogue.settings(command, FOLDERS)
    assert without_own
    assert not repeated(own, _settings.defaults_of(_commands.record_of(command)))


def repeated(own: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Keys whose values are those that they would have anyway."""
    found = []
    for key, value in own.items():
        before = base.get(key, MISSING)
        if isinstance(value, dict) and isinstance(before, dict):
            found += [f"{key}.{inner}" for inner in repeated(value, before)]
        elif value == before and type(value) is type(before):
            found.append(key)
    return found


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("width", [80, 120])
def test_help_lists_each_setting_once_and_keeps_to_the_width(command: str, width: int) -> None:
    lines = _help.command_help(command, FOLDERS, {}, width)
    shown = [line.split("=")[0].strip() for line in lines if line.startswith("  ") and "=" in line.split("  ")[1]]
    settings = [entry.key for entry in _catalogue.settings(command, FOLDERS) if not entry.is_section]
    assert [key for key in shown if key in settings] == settings
    assert all(len(line) <= width for line in lines if "segflow" not in line)


def test_help_shows_what_the_command_line_would_use(tmp_path: Path) -> None:
    result = start(tmp_path, "train", "optimizer=adamw", "--help")
    assert result.returncode == 0, result.stderr
    assert "optimizer.amsgrad=true" in result.stdout
    assert "optimizer.momentum" not in result.stdout


def test_help_of_a_group_says_what_each_option_is_for(tmp_path: Path) -> None:
    result = start(tmp_path, "help", "train", "fold")
    assert result.returncode == 0, result.stderr
    assert "0 (default)" in result.stdout
    assert "fold.scheme=kfold" in result.stdout
    assert "trainer" not in result.stdout
    missing = start(tmp_path, "help", "train", "fould")
    assert missing.returncode == 2
    assert "has no 'fould'" in missing.stderr


def test_help_knows_a_part_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    (tmp_path / "mine" / "loss" / "weighed.yaml").write_text(
        "# Focal loss.\n_target_: my_parts.focal\n_partial_: true\ngamma: 2.0\nalpha: 0.5   # Share of a class.\n"
    )
    (tmp_path / "my_parts.py").write_text(
        "def focal(labels, batch_dice, gamma=1.0, alpha=0.0):\n"
        '    """Focal loss.\n\n    Args:\n        gamma: Focus.\n    """\n'
    )
    result = start(tmp_path, "help", "train", "--config-dir", "mine", "loss=weighed", "loss")
    assert result.returncode == 0, result.stderr
    for line in ("weighed", "Focal loss.", "loss.gamma=2.0", "Focus.", "loss.alpha=0.5", "Share of a class."):
        assert line in result.stdout


@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_fits_the_terminal(columns: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "segflow", "predict", "--help"]
    environment = {**os.environ, "COLUMNS": columns}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert max(map(len, result.stdout.splitlines())) <= int(columns)
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("meaning", "first"),
    [
        ("Seed. Of all.", "Seed."),
        ("``auto``, ``cpu``; ``cuda:1``, …", "auto, cpu; cuda:1, …."),
        ("Such as `Part`, e.g. one of yours. More.", "Such as Part, e.g. one of yours."),
        ("Ends in ``.nii.gz`` or so", "Ends in .nii.gz or so."),
        ("", ""),
    ],
)
def test_the_first_sentence(meaning: str, first: str) -> None:
    assert _help.first_sentence(meaning) == first


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("find=rate", ["optimizer.lr=0.01", "[train, demo, run]"]),
        ("find=learning rate", ["optimizer.lr="]),
        ("find=MIRROR", ["inference.mirroring=true", "augmentation=no_mirroring"]),
    ],
)
def test_settings_are_found_by_name_and_meaning(words: str, expected: list[str], tmp_path: Path) -> None:
    result = start(tmp_path, "config", words)
    assert result.returncode == 0, result.stderr
    for text in expected:
        assert text.split()[0].strip("[],") in result.stdout


def test_settings_of_the_users_own_are_found_too(tmp_path: Path) -> None:
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    (tmp_path / "mine" / "loss" / "rarity.yaml").write_text("# Focal loss, for rare ones.\n_target_: torch.nn.L1Loss\n")
    result = start(tmp_path, "config", "--config-dir", "mine", "find=rare")
    assert result.returncode == 0, result.stderr
    assert "loss=rarity" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["config"], 1, "segflow config find=rate"),
        (["config", "find=epohcs"], 1, "Did you mean find="),
        (["config", "rate"], 2, "Type: segflow config find=rate"),
    ],
)
def test_a_search_that_finds_nothing_says_so(arguments: list[str], code: int, expected: str, tmp_path: Path) -> None:
    result = start(tmp_path, *arguments)
    assert result.returncode == code
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
