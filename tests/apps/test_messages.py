"""Each mistake on the command line ends in one line, without a traceback, that says what would be right."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import forked_commands
import pytest


def segflow(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return forked_commands.run(folder, *arguments, environment={**os.environ, **environment})


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["trian"], 2, "did you mean 'segflow train'?"),
        (["train", "trainer.max_epoch=3"], 2, "no setting 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'?"),
        (["train", "max_epochs=3"], 2, "no setting 'max_epochs'. Did you mean 'trainer.max_epochs'?"),
        (["predict", "inference=3"], 2, "there is no '3' for 'inference'"),
        (["evaluate", "evaluation=3"], 2, "setting 'evaluation' cannot be set as a whole"),
        (["train", "optimiser=sgd"], 2, "Did you mean 'optimizer'?"),
        (["train", "optimizer=sdg"], 2, "Did you mean 'sgd'?"),
        (["train", "trainer.max_epochs=three"], 2, "'trainer.max_epochs' has the wrong type; found three"),
        (["train", "validation=3"], 2, "'validation' has the wrong type; found 3; expected true or false. It means"),
        (["train", "training.skip_limit=-1"], 1, "skip_limit must be 0 or more; found -1. It means: Steps in a row"),
        (["train", "augmentation.steps=[noise]"], 2, "'augmentation.steps': a list cannot take the place of a mapping"),
        (["train", "augmentation.noise.probability=1"], 2, "Did you mean 'augmentation.steps.noise.probability'?"),
        (["train", "fold=nine"], 2, "there is no 'nine' for 'fold'; there are: 0, 1, 2, 3, 4, all."),
        (["train", "-m", "dataset=phantom", "fold=0,1", "--cfg", "job"], 2, "--cfg and --info show one"),
        (["nnUNetv2_train", "4", "2d", "0", "--npz"], 2, "Type: segflow train dataset=4 configuration=2d fold=0 save_"),
        (["nnUNet_train", "2d"], 2, "nnU-Net v1's nnUNet_train is here 'segflow train'"),
        (["nnUNetv2_trian"], 2, "there is no command 'nnUNetv2_trian' in nnU-Net 2.8"),
        (["train", "fold=null"], 1, "'fold' needs one of its options"),
        (["train", "dataset=hipocampus"], 2, "Did you mean 'hippocampus'?"),
        (["plan", "planner.memory_target=3"], 2, "Did you mean 'planner.memory_target_gb'?"),
        (["plan", "+planner.foo=3"], 2, "there is no setting 'planner.foo'"),
        (["plan", "dataset.path"], 2, "cannot read the argument 'dataset.path'"),
        (["train", "4", "3d_fullres", "0"], 2, "Did you mean 'dataset=4'?"),
        (["train", "dataset=4", "3d_fullres", "0"], 2, "Did you mean 'configuration=3d_fullres'?"),
        (["plan", "-d", "4", "--verify_dataset_integrity"], 1, "nnU-Net's -d is here dataset=ID."),
        (["train", "-c", "3d_fullres"], 1, "'-c 3d_fullres' is not understood"),
        (["train", "dataset=4", "--npz"], 1, "nnU-Net's --npz is here save_probabilities=true."),
        (["predict", "-i", "images"], 1, "nnU-Net's -i is here input=DIR."),
        (["predict", "-d", "4"], 1, "nnU-Net's -d is here model=RUN_FOLDER."),
        (["plan", "-p", "nnUNetResEncUNetLPlans"], 1, "nnU-Net's -p is here plans=NAME."),
        (["plan", "--nonsense"], 1, "there is no flag '--nonsense'"),
        (["plan", "dataset=Dataset004"], 1, "there is no dataset Dataset004_"),
        (["plan", "dataset=raw"], 1, "which dataset?"),
        (["plan", "dataset=/no/such/folder"], 1, "there is no folder /no/such/folder"),
        (["plan", "dataset.path=/no/such/folder"], 1, "there is no folder /no/such/folder"),
        (["plan", "dataset=Dataset999_X"], 1, "Dataset999_X"),
        (["train"], 1, "segflow plan"),
        (["preprocess", "configuration=2d"], 2, "there is no group 'configuration'. Did you mean 'configurations'?"),
        (["preprocess", "max_memory=1"], 2, "no setting 'max_memory'. Did you mean"),
        (["doctor", "optimizer=adam"], 2, "there is no group 'optimizer'."),
        (["preprocess", "dataset=Dataset999_X"], 1, "Dataset999_X"),
        (["predict", "input=.", "output=out"], 1, "model= is missing"),
        (["predict", "model=outputs/none", "input=.", "output=out"], 1, "Train first"),
        (["evaluate", "prediction=."], 1, "reference= is missing"),
        (["convert"], 1, "segflow convert source="),
        (["convert", "source=."], 1, "Is this a decathlon task?"),
        (["convert", "source=/no/such/task"], 1, "there is no /no/such/task"),
        (["convert", "source=.", "kind=analyze"], 1, "found analyze; expected auto, decathlon"),
        (["train", "fold=0,1"], 2, "'fold' has several values; -m runs one after another"),
        (["train", "fold=0", "fold=1", "fold=2"], 2, "Type: segflow train -m fold=0,1,2"),
        (["train", "-m", "fold=0", "fold=1", "loss=dice"], 2, "Type: segflow train -m fold=0,1 loss=dice"),
        (["convert", "channels=T1", "channels=T2", "channels=FL"], 2, "'channels=[T1,T2,FL]'"),
        (["convert", "labels=background:0", "labels=x:1"], 2, "Type: segflow convert 'labels={background:0,x:1}'"),
        (["compare", "seeds=a:[A1", "seeds=A2]", "seeds=b:[B1]"], 2, "'seeds={a:[A1,A2],b:[B1]}'"),
        (["run", "configuration=4d"], 2, "there is no '4d' for 'configuration'"),
        (["run", "only=2d"], 1, "cannot read 'only'; found 2d; expected CONFIGURATION/FOLD"),
        (["ensemble", "output=out"], 1, "members= and output= are needed"),
        (["ensemble", "members=[one,two]", "output=out"], 1, "inference.probabilities=true"),
        (["ensemble", "members=one", "output=out"], 1, "there is no one/dataset.json"),
        (["select", "runs=one"], 1, "there is no folder one"),
        (["evaluate", "prediction=.", "reference=.", "labels=."], 1, "there is no dataset.json"),
        (["postprocess"], 1, "prediction= is missing"),
        (["postprocess", "action=aply"], 1, "found aply; expected choose or apply"),
        (["postprocess", "run=outputs/none"], 1, "Train first"),
        (["postprocess", "action=apply", "prediction=.", "output=out"], 1, "choice= is missing"),
        (["select"], 1, "Train first"),
        (["report"], 1, "segflow report run="),
        (["report", "run=outputs/none"], 1, "Train first"),
        (["bundle", "run=outputs/none"], 2, "there is no setting 'run'. Did you mean 'run_name'?"),
        (
            ["ensemble", "predictions=[one,two]"],
            2,
            "'predictions'; expected one of paths, reader, max_memory_gb, verbose, members",
        ),
        (["bundle"], 1, "segflow bundle action=export"),
        (["bundle", "action=import", "model=/no/such.zip", "configuration=2d"], 1, "/no/such.zip"),
        (["doctor", "dataset=Dataset999_X"], 1, "Dataset999_X"),
    ],
)
def test_one_line_says_what_is_wrong(arguments: list[str], code: int, expected: str, tmp_path: Path) -> None:
    result = segflow(*arguments, folder=tmp_path)
    assert result.returncode == code, result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_the_last_of_two_values_counts_as_a_script_may_put_the_users_words_behind_its_own(tmp_path: Path) -> None:
    result = segflow("train", "dataset=phantom", "fold=0", "fold=1", "--cfg", "job", "-p", "fold", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "index: 1" in result.stdout


def test_the_traceback_is_there_for_who_wants_it(tmp_path: Path) -> None:
    result = segflow("plan", "dataset.path=/no/such/folder", folder=tmp_path, HYDRA_FULL_ERROR="1")
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_a_bad_yaml_of_the_users_own_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "mine.yaml").write_text("name: [unclosed\n")
    result = segflow("plan", "--config-dir", "mine", "dataset=mine", folder=tmp_path)
    assert result.returncode == 2
    assert "not valid YAML" in result.stderr
    assert "mine.yaml" in result.stderr


def test_a_preset_whose_package_is_not_in_the_first_line_says_so(tmp_path: Path) -> None:
    preset = tmp_path / "conf" / "experiment" / "mine.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("# mine\n# @package _global_\ndefaults:\n  - override /optimizer: adamw\n")
    told = segflow("train", "--config-dir", "conf", "dataset=phantom", "experiment=mine", folder=tmp_path)
    assert told.returncode == 2
    assert "experiment/mine.yaml" in told.stderr
    assert "very first line must be '# @package _global_'" in told.stderr


def test_a_users_folder_wins_over_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "phantom.yaml").write_text("name: Dataset777_Mine\npath: null\nsource: raw\n")
    result = segflow("plan", "--cfg", "job", "-p", "dataset", folder=tmp_path, SEGFLOW_CONF="mine")
    assert result.returncode == 0, result.stderr
    assert "Dataset777_Mine" in result.stdout


def test_help_lists_groups_and_options(tmp_path: Path) -> None:
    result = segflow("train", "--help", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in ("fold: 0, 1, 2, 3, 4, all", "configuration: 2d", "trainer: ", "trainer.max_epochs=1000"):
        assert text in result.stdout
