"""What a newcomer types is answered with the line to type instead, and what is right passes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from apps_commands import start

from segflow.apps import _first_words, _messages
from segflow.apps._first_words import CommandLineError, check
from segflow.apps._nnunet_names import nearest_class, planner_of, settings_of_class

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"


def told(line: str, *folders: Path) -> str:
    """What is said of a command line."""
    command, *arguments = shlex.split(line)
    with pytest.raises(CommandLineError) as raised:
        check(command, arguments, [CONF, *folders])
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("train fold=[0,1]", "train -m fold=0,1"),
        ("train fold=0,1", "train -m fold=0,1"),
        ("train -m fold=[0,1]", "train -m fold=0,1"),
        ("train dataset=4 fold=0,1,2,3,4 configuration=2d,3d_fullres", "train -m dataset=4 fold=0,1,2,3,4 "
         "configuration=2d,3d_fullres"),
        ("run fold=0,1", "run 'fold.index=[0,1]'"),
        ("run configuration=[2d,3d_fullres]", "run 'configuration.name=[2d,3d_fullres]'"),
        ("train optimizer.lr=0.1,0.01", "train -m optimizer.lr=0.1,0.01"),
        ("train run_name=a,b", "train -m run_name=a,b"),
        ("preprocess configurations=2d,3d_fullres", "preprocess 'configurations=[2d,3d_fullres]'"),
        ("ensemble members=a,b output=c", "ensemble 'members=[a,b]' output=c"),
        ("predict folds=0,1 model=m", "predict 'folds=[0,1]' model=m"),
        ("train fold 0", "train fold=0"),
        ("train dataset 4 configuration 2d fold 0", "train dataset=4 configuration=2d fold=0"),
        ("train --fold 0", "train fold=0"),
        ("train --fold=0 --epochs 10", "train fold=0 trainer.max_epochs=10"),
        ("train --trainer.max_epochs 3", "train trainer.max_epochs=3"),
        ("train --verbose fold=0", "train verbose=true fold=0"),
        ("train epochs=10", "train trainer.max_epochs=10"),
        ("train learning_rate=0.1 fold=1", "train optimizer.lr=0.1 fold=1"),
        ("train lr=0.1", "train optimizer.lr=0.1"),
        ("train gpus=2", "train trainer.devices=2"),
        ("predict device=cpu tta=false step_size=0.5", "predict device=cpu inference.mirroring=false "
         "inference.overlap=0.5"),
        ("doctor /data", "doctor dataset.path=/data"),
        ("plan /data/my set", "plan dataset.path=/data/my dataset=set"),
        ("doctor 4", "doctor dataset=4"),
        ("train 4 3d_fullres 0", "train dataset=4 configuration=3d_fullres fold=0"),
        ("train Dataset042_X 2d all", "train dataset=Dataset042_X configuration=2d fold=all"),
        ("predict run images out", "predict model=run input=images output=out"),
        ("evaluate out reference=ref", "evaluate prediction=out reference=ref"),
        ("report outputs/x", "report run=outputs/x"),
        ("convert /data/Task04", "convert source=/data/Task04"),
        ("bundle export run liver.segflow", "bundle action=export model=run output=liver.segflow"),
        ("train trainer=nnUNetTrainer_250epochs", "train trainer.max_epochs=250"),
        ("train trainer=nnUNetTrainer_20epochs_NoMirroring", "train trainer.max_epochs=20 augmentation=no_mirroring"),
        ("train trainer=nnUNetTrainer fold=0", "train fold=0"),
        ("train -tr nnUNetTrainerDA5 fold=0", "train augmentation=nnunet_da5 fold=0"),
        ("plan planner=nnUNetPlannerResEncL", "plan planner=resenc_l"),
    ],
)  # fmt: skip
def test_the_right_line_is_named(typed: str, right: str) -> None:
    if typed.startswith("plan /data/my"):  # two words where one path was meant: the second is no option
        typed, right = "plan '/data/my set'", "plan 'dataset.path=/data/my set'"
    assert told(typed).endswith(f"Type: segflow {right}")
    words = shlex.split(right)
    check(words[0], words[1:], [CONF])  # and is taken


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("train trainer=nnUNetTrainerFoo", "docs/coming_from_nnunet.md lists"),
        ("train trainer=nnUNetTrainerDA6", "nnUNetTrainerDA5 is here augmentation=nnunet_da5"),
        ("plan dataset.path", "cannot read the argument 'dataset.path'. Write dataset.path=VALUE."),
        ("train hello", "write KEY=VALUE"),
        ("train fold=0 hello=1 world", "cannot read the argument 'world'"),
    ],
)
def test_what_cannot_be_put_right_is_told_without_a_line(typed: str, expected: str) -> None:
    assert expected in told(typed)
    assert "Type:" not in told(typed)


@pytest.mark.parametrize(
    "typed",
    [
        "train fold=0 trainer.max_epochs=2 optimizer=adamw optimizer.lr=0.001",
        "train -m fold=0,1 optimizer.lr=0.1,0.01 loss=dice,ce",
        "train -m fold='0','1' 'optimizer.lr=choice(0.1,0.2)'",
        "train fold=0,1 hydra.mode=MULTIRUN",
        "train 'trainer.devices=\"0,1\"'",
        "train trainer.devices='0,1'",
        "train 'configuration.patch_size=[16,16,16]' 'training.lr_factors={encoder.*:0.1,decoder.*:1}'",
        "train run_name=lr=0.1",
        "train +trainer.fast_dev_run=true ~logger",
        "train --cfg job -p trainer --resolve",
        "predict model=/a,b input=/c,d output=x part=0/4",
        "predict 'model=[a,b]' 'input=[a,b]' output=x",
        "predict network@previous_network=mine",
        "run 'fold.index=[0,1]' 'configuration.name=[2d,3d_fullres]'",
        "train 'logger=[tensorboard,csv]'",
        "convert source=a 'labels={background:0,liver:1}'",
        "train --no-such-flag",
        "plan -p nnUNetPlans",
        "train optimizer=sdg no.such=3",
    ],
)  # fmt: skip
def test_what_is_right_or_refused_elsewhere_passes(typed: str) -> None:
    command, *arguments = shlex.split(typed)
    check(command, arguments, [CONF])


def test_a_setting_of_the_users_own_is_not_renamed(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nepochs: 3\n")
    assert "trainer.max_epochs" in told("train epochs=5")
    check("train", ["experiment=mine", "epochs=5"], [CONF, tmp_path])


def test_a_launcher_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_first_words, "_is_installed", lambda module: False)
    assert "pip install 'segflow[launchers]'" in told("train -m hydra/launcher=joblib fold=0,1")
    assert "pip install 'segflow[ray]'" in told("train -m hydra/launcher=ray fold=0,1")
    monkeypatch.setattr(_first_words, "_is_installed", lambda module: True)
    check("train", ["-m", "hydra/launcher=submitit_slurm", "fold=0,1"], [CONF])


def test_a_launcher_without_a_sweep_is_told_and_run_takes_one() -> None:
    assert told("train hydra/launcher=gpus fold=0").endswith("Type: segflow train -m hydra/launcher=gpus fold=0")
    check("run", ["hydra/launcher=gpus"], [CONF])
    assert "Did you mean 'hydra/launcher=slurm'?" in told("run slurm")


@pytest.mark.parametrize(
    ("option", "known", "expected"),
    [
        ("AdamW", ["adam", "adamw", "adan", "sgd"], "'adamw'"),
        ("3d", ["2d", "3d_fullres", "3d_lowres"], "'3d_lowres' or '3d_fullres'"),
        ("lowres", ["2d", "3d_fullres", "3d_lowres"], "'3d_lowres'"),
        ("sdg", ["adam", "sgd"], "'sgd'"),
        ("9", ["0", "1"], None),
    ],
)
def test_the_option_that_is_meant(option: str, known: list[str], expected: str | None) -> None:
    meant = re.search(r"Did you mean (.*)\?", _messages.no_option("group", option, known))
    assert (meant and meant[1]) == expected


# ------------------------------------------------------------------------------------------------ nnU-Net's names


def test_trainer_classes_that_differ_in_their_number_of_epochs() -> None:
    assert settings_of_class("nnUNetTrainer_1epoch") == ["trainer.max_epochs=1"]
    assert settings_of_class("nnUNetTrainer_8000epochs") == ["trainer.max_epochs=8000"]
    assert settings_of_class("nnUNetTrainer") == []
    assert settings_of_class("nnUNetTrainerX") is None
    assert nearest_class("nnUNetTrainer_DA5") == "nnUNetTrainerDA5"


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("ExperimentPlanner", "nnunet"),
        ("nnUNetPlans", "nnunet"),
        ("ResEncUNetPlanner", "resenc"),
        ("nnUNetPlannerResEncM", "resenc_m"),
        ("nnUNetPlannerResEncXL", "resenc_xl"),
        ("nnUNetResEncUNetLPlans", "resenc_l"),
        ("mine", None),
    ],
)
def test_planners(name: str, option: str | None) -> None:
    assert planner_of(name) == option
    assert option is None or (CONF / "planner" / f"{option}.yaml").is_file()


# ------------------------------------------------------------------------------------------------- the whole command


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "fold", "0"], "Type: segflow train fold=0"),
        (["train", "configuration=3d"], "Did you mean '3d_lowres' or '3d_fullres' or '3d_cascade_fullres'?"),
        (["train", "optimizer=AdamW"], "Did you mean 'adamw'?"),
        (["help", "trian"], "did you mean 'segflow train'?"),
        (["-sc", "install=csh"], "bash, zsh or fish"),
    ],
)
def test_one_line_and_exit_code_2(arguments: list[str], expected: str, tmp_path: Path) -> None:
    result = start(tmp_path, *arguments)
    assert result.returncode == 2
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_a_run_name_may_be_a_setting(tmp_path: Path) -> None:
    result = start(tmp_path, "train", "run_name=lr=0.1", "--cfg", "job")
    assert result.returncode == 0, result.stderr
    assert "run_name: lr=0.1" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--version"], "segflow "),
        (["train", "--version"], "segflow "),
        (["help"], "Use: segflow COMMAND"),
        ([], "Use: segflow COMMAND"),
        (["help", "train"], "optimizer"),
    ],
)
def test_questions_about_segflow_itself(arguments: list[str], expected: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "segflow", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert expected in result.stdout
    assert result.stderr == ""
