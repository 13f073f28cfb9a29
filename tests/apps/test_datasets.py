"""Which dataset a command works on: the one that was named, and never one that nobody asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segflow.apps import _datasets, _edge
from segflow.apps._records import DatasetCommand, DatasetSettings
from segflow.core.errors import SegflowError

COMMANDS = ("doctor", "plan", "preprocess", "train", "select", "run")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGFLOW_RAW", "SEGFLOW_PREPROCESSED", "nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def config(*overrides: str) -> DatasetCommand:
    return _edge.compose("doctor", *overrides)


def dataset(folder: Path) -> Path:
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("command", _datasets.MAKERS)
def test_where_nothing_else_can_be_meant_planning_takes_the_phantom_and_says_so(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _datasets.announce(config(), command).source == "phantom"
    assert capsys.readouterr().out.startswith("Dataset Dataset001_Phantom (data/raw/Dataset001_Phantom), the phantom")
    dataset(tmp_path / "data/raw/Dataset042_Liver")
    with pytest.raises(SegflowError, match=r"which dataset\?.*dataset=phantom"):
        _datasets.announce(config(), command)


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {*_datasets.MAKERS}))
def test_a_forgotten_dataset_is_asked_for(command: str, tmp_path: Path) -> None:
    with pytest.raises(SegflowError, match=r"which dataset\?.*dataset=phantom"):
        _datasets.announce(config(), command)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("root", ["data/raw", "data/preprocessed"])
def test_a_forgotten_dataset_is_asked_for_where_there_are_others(root: str, tmp_path: Path) -> None:
    dataset(tmp_path / "data/raw/Dataset001_Phantom")
    dataset(tmp_path / root / "Dataset042_Liver")
    with pytest.raises(SegflowError, match=r"found Dataset042_Liver\. Name it: segflow train dataset=Dataset042_Liver"):
        _datasets.announce(config(), "train")


@pytest.mark.parametrize("inside", [".", "imagesTr", "imagesTr/more"])
def test_in_the_folder_of_another_dataset_the_phantom_is_not_meant(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(tmp_path / "data/raw/Dataset001_Phantom")
    here = dataset(tmp_path / "my data" / "Dataset042_Liver")
    (here / inside).mkdir(exist_ok=True, parents=True)
    monkeypatch.chdir(here / inside)
    monkeypatch.setenv("SEGFLOW_RAW", str(tmp_path / "data/raw"))
    with pytest.raises(SegflowError, match="the current folder is of Dataset042_Liver") as caught:
        _datasets.announce(config(), "plan")
    assert f"'dataset.path={here}'" in str(caught.value)


def test_the_first_line_says_which_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _datasets.announce(config(), "demo")
    dataset(tmp_path / "data/raw/Dataset001_Phantom")
    _datasets.announce(config(), "train")
    dataset(tmp_path / "data/raw/Dataset042_Liver")
    _datasets.announce(config("dataset=raw", "dataset.name='42'"), "train")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[1]
    assert lines[0].startswith("Dataset Dataset001_Phantom (data/raw/Dataset001_Phantom), the phantom")
    assert lines[2] == "Dataset Dataset042_Liver (data/raw/Dataset042_Liver)"


@pytest.mark.parametrize("option", ["phantom", "hippocampus"])
def test_a_dataset_is_made_only_where_a_command_asks_for_it(option: str, tmp_path: Path) -> None:
    composed = config(f"dataset={option}")
    read, paths = composed.dataset, composed.paths
    with pytest.raises(SegflowError, match=f"Plan first, which makes it: segflow plan dataset={option}"):
        _datasets.raw_folder(read, paths)
    assert not list(tmp_path.iterdir())
    there = dataset(tmp_path / "data/raw" / read.name)
    assert _datasets.raw_folder(read, paths).resolve() == there


def test_a_dataset_is_named_on_a_command_line_as_it_was_chosen() -> None:
    settings = DatasetSettings
    assert _datasets.as_settings(settings(name="Dataset001_Phantom", source="phantom")) == {"dataset": "phantom"}
    assert _datasets.as_settings(settings(name="42")) == {"dataset": 42}
    assert _datasets.as_settings(settings(name="x", path=Path("/a b"))) == {"dataset__path": Path("/a b")}
    assert _datasets.as_settings(settings(name="my data")) == {"dataset": "raw", "dataset__name": "my data"}
    given = ["dataset=raw", "dataset.name='42'", "trainer=demo"]
    assert _datasets.shortened_words(given) == ["dataset=42", "trainer=demo"]
    assert _datasets.shortened_words(["dataset=raw", "dataset.name=my_data"]) == ["dataset=raw", "dataset.name=my_data"]
