"""What a person types reaches Hydra in a form that it accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from segflow.apps._command_line import config_flags, rewrite
from segflow.apps._shipped import options

CONF = Path(__file__).resolve().parents[2] / "conf"


def marked(*arguments: str, command: str = "train") -> list[str]:
    return rewrite(command, arguments, [CONF])


def rewritten(*arguments: str, command: str = "train") -> list[str]:
    """The same without the mark of a setting."""
    return [text.removeprefix("++") for text in marked(*arguments, command=command)]


def test_settings_are_marked_so_that_every_key_reaches_the_check_of_its_command() -> None:
    typed = ["trainer.max_epochs=3", "fold=0", "hydra.mode=RUN", "~callbacks", "+foo=1", "loss@x=dice", "-m"]
    assert marked(*typed) == ["-m", "++trainer.max_epochs=3", "fold='0'", *typed[2:-1]]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("fold=0", "fold='0'"),
        ("fold=all", "fold=all"),
        ("fold=7", "fold.index=7"),
        ("fold='0'", "fold='0'"),
        ("configuration=3d_fullres", "configuration=3d_fullres"),
        ("trainer.max_epochs=3", "trainer.max_epochs=3"),
        ("trainer.devices=0,1", "trainer.devices=[0,1]"),
        ("trainer.devices=1,", "trainer.devices=[1]"),
        ("trainer.devices='0,1'", "trainer.devices='0,1'"),
        ("dataset.path=/data/Dataset001_A", "dataset.path=/data/Dataset001_A"),
        ("dataset.path=/data/a b", "dataset.path='/data/a b'"),
        ("dataset.path=/data/x=1,(2)", "dataset.path='/data/x=1,(2)'"),
        ("dataset.path=/data/it's", "dataset.path='/data/it\\'s'"),
        ("paths.raw=/my data", "paths.raw='/my data'"),
        ("run_name=2024", "run_name='2024'"),
        ("run_name=nan", "run_name='nan'"),
        ("run_name=1e-3", "run_name='1e-3'"),
        ("run_name=v1.2", "run_name=v1.2"),
        ("plans=007", "plans='007'"),
        ("previous_run_name=null", "previous_run_name=null"),
        ("training.initial_weights=/my runs/a", "training.initial_weights='/my runs/a'"),
        ("training.lr_factors={encoder.*:0.1}", "training.lr_factors={encoder.*:0.1}"),
        ("sampling.class_weights.tumor=3", "sampling.class_weights.tumor=3"),
        ("+callbacks.mine={a:1}", "+callbacks.mine={a:1}"),
        ("+experiment=fine_tune", "experiment=fine_tune"),
        ("++optimizer=adam", "optimizer=adam"),
        ("+planner=nnunet", "+planner=nnunet"),
        ("dataset.path=/Müller", "dataset.path='/Müller'"),
        ("run_name=a (1)", "run_name='a (1)'"),
        ("model=[runs/a,runs/b]", "model=[runs/a,runs/b]"),
    ],
)
def test_one_argument(typed: str, expected: str) -> None:
    assert rewritten(typed) == [expected]


def test_settings_of_a_command_with_one_section_need_not_name_it() -> None:
    typed = ["input=a", "part=0/4", "folds=[0,1]", "probabilities=true", "inference.resume=false"]
    expected = ["input=a", "inference.part=0/4", "inference.folds=[0,1]", "inference.probabilities=true", typed[-1]]
    assert rewritten(*typed, command="predict") == expected
    assert rewritten(*expected, command="predict") == expected
    assert rewritten("partial=true", "output=o", command="evaluate") == ["evaluation.partial=true", "output=o"]
    assert rewritten("fill_holes=true", command="postprocess") == ["postprocessing.fill_holes=true"]
    assert rewritten("resume=false", command="ensemble") == ["resume=false"]
    assert rewritten("configuration=2d", command="bundle") == ["bundle.configuration=2d"]
    assert rewritten("previous_stage=/my runs/(1)", command="predict") == ["inference.previous_stage='/my runs/(1)'"]
    assert rewritten("processes=1", command="preprocess") == ["preprocessing.processes=1"]
    assert rewritten("part=0/4") == ["part=0/4"]


def test_rewriting_twice_changes_nothing() -> None:
    once = rewritten(
        "-m", "fold=0,1", "dataset.path=/a b", "optimizer.lr=0.1,0.01", "training.lr_factors={encoder.*:0.1}"
    )
    assert rewritten(*once) == once
    assert marked(*marked(*once)) == marked(*once)


def test_flags_may_stand_anywhere() -> None:
    assert rewritten("fold=0,1", "-m", "seed=1") == ["-m", "fold='0','1'", "seed=1"]
    assert rewritten("-m", "fold=0,1,2,3,4,5") == ["-m", "fold.index=0,1,2,3,4,5"], "the group has no option 5"
    assert rewritten("seed=1", "--cfg", "job", "fold=0") == ["--cfg", "job", "seed=1", "fold='0'"]
    assert rewritten("--config-dir", "mine", "seed=1") == ["--config-dir", "mine", "seed=1"]


def test_a_sweep_over_all_folds_expands_the_glob() -> None:
    (argument,) = rewritten("-m", "fold=glob(*)")[1:]
    assert argument == "fold='0','1','2','3','4',all"


def test_a_folder_of_the_raw_datasets_needs_no_yaml() -> None:
    assert rewritten("dataset=Dataset042_X") == ["dataset=raw", "dataset.name='Dataset042_X'"]
    assert rewritten("dataset=42") == ["dataset=raw", "dataset.name='42'"]
    assert rewritten("dataset=Dataset042") == ["dataset=raw", "dataset.name='Dataset042'"]
    assert rewritten("dataset=Dataset042_Liver-2.1") == ["dataset=raw", "dataset.name='Dataset042_Liver-2.1'"]
    assert rewritten("dataset=/data/Dataset042_X") == ["dataset=raw", "dataset.path='/data/Dataset042_X'"]
    assert rewritten("-m", "dataset=4,5") == ["-m", "dataset=raw", "dataset.name='4','5'"]
    assert rewritten("dataset=hippocampus") == ["dataset=hippocampus"]


def test_a_misspelt_dataset_stays_an_error_of_the_group() -> None:
    assert rewritten("dataset=hipocampus") == ["dataset=hipocampus"]


def test_options_of_a_group() -> None:
    assert options("fold", [CONF]) == ["0", "1", "2", "3", "4", "all"]


@pytest.mark.parametrize("typed", [["-cd", "mine"], ["--config-dir", "mine"], ["-cd=mine"], ["--config-dir=mine"]])
def test_folders_of_configuration_reach_the_jobs_that_are_started(typed: list[str]) -> None:
    assert config_flags(["-m", "fold=0,1", *typed, "-cn", "own"]) == ["--config-dir=mine", "--config-name=own"]
    assert config_flags([*typed, "--cfg", "job"]) == ["--config-dir=mine"]
    assert rewritten(*config_flags(typed), "seed=1") == ["--config-dir=mine", "seed=1"]


def test_devices_with_commas_are_a_sweep_only_if_asked_for() -> None:
    assert rewritten("-m", "trainer.devices=1,2") == ["-m", "trainer.devices=1,2"]
