"""A setting is heard or refused: what no code reads is not composed, and no two jobs of a sweep share a folder."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from segflow.apps import _composition, _messages, _sweep, _user_files
from segflow.apps._command_line import rewrite

CONF = Path(__file__).resolve().parents[2] / "conf"


def checked(line: str, *own: Path) -> list[str]:
    """What Hydra is given for a command line, after every look at it."""
    command, *words = shlex.split(line)
    folders = [CONF, *own]
    words += [f"--config-dir={folder}" for folder in own]
    return _composition.checked(command, rewrite(command, words, folders), folders)


def refused(line: str, *own: Path) -> str:
    with pytest.raises(Exception) as caught:
        checked(line, *own)
    return _messages.explain(caught.value, [CONF, *own], line.split()[0])[0]


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train experiment=fine_tuning", "Did you mean 'fine_tune'?"),
        ("train +experiment=fine_tuning", "Did you mean 'fine_tune'?"),
        ("run experiment=fine_tuning", "Did you mean 'fine_tune'?"),
        ("demo experiment=[nnunet,fine_tuning]", "Did you mean 'fine_tune'?"),
        ("train -m experiment=fine_tuning fold=0,1", "Did you mean 'fine_tune'?"),
        ("predict +experiment=fine_tune", "there is no group 'experiment'"),
        ("train +planner=nnunet", "there is no group 'planner'"),
        ("train +foo=1", "there is no setting 'foo'"),
        ("train -m +foo=1,2", "there is no setting 'foo'"),
        ("train ++trainer.max_epoch=3", "Did you mean 'trainer.max_epochs'?"),
        ("train +trainer.gradient_clip_algoritm=norm", "Did you mean 'trainer.gradient_clip_algorithm'?"),
        ("train +trainer.logger=false", "'trainer.logger' is not to be set. Choose one with logger="),
        ("train +optimizer.momentm=0.9", "Did you mean 'optimizer.momentum'?"),
        ("train optimizer=adamw +optimizer.momentum=0.9", "there is no setting 'optimizer.momentum'"),
        ("train +logger.mine=3", "'logger.mine' has the wrong type; found 3; expected a part"),
        ("train +optimizer@foo=adam", "there is no setting 'foo'"),
        ("train +inference@training=quick", "there is no setting 'training.overlap'"),
        ("train +augmentation.steps.noise.sigmas=[0,1]", "Did you mean 'augmentation.steps.noise.sigma'?"),
        ("train augmentation.noise.sigma=[0,1]", "Did you mean 'augmentation.steps.noise.sigma'?"),
        ("plan planner.overrides._2d.batch_size=x", "'planner.overrides._2d.batch_size' has the wrong type; found x"),
        ("plan +planner.overrides._2d.batchsize=2", "Did you mean 'planner.overrides._2d.batch_size'?"),
        ("predict network@previous_network=batch_nrm", "Did you mean 'batch_norm'?"),
        ("predict +network@previous_networks=planned", "there is no setting 'previous_networks'"),
        ("evaluate +evaluation.scores.surfaces=true", "Did you mean 'evaluation.scores.surface'?"),
        ("ensemble +wieghts=[1,2]", "Did you mean 'weights'?"),
        ("train +optimizer.lr=0.1", "'optimizer.lr' is there already"),
        ("train ~validaton", "Did you mean 'validation'?"),
        ("train -m trainer.max_epochs=3,four", "'trainer.max_epochs' has the wrong type; found four"),
    ],
)
def test_what_does_not_exist_is_refused(line: str, said: str) -> None:
    assert said in refused(line)


@pytest.mark.parametrize(
    "line",
    [
        "train +experiment=fine_tune",
        "train +trainer.fast_dev_run=true +optimizer.foreach=true +hydra.job.env_set.A=b",
        "train callbacks.stop={_target_:my.Stop,after:3} +logger.mine={_target_:my.Logger,url:a}",
        "train training.lr_factors={encoder.*:0.1} sampling.class_weights.tumor=3",
        "train loss._target_=my.Loss +loss.gamma=2 +rate=0.1 'optimizer.lr=${rate}'",
        "train logger=[csv,tensorboard] ~callbacks",
        "train augmentation.steps.noise=null +augmentation.steps.mine={_target_:my.Step,depth:3}",
        "train augmentation=nnunet_da5 augmentation.steps.contrast.steps.free=null ~augmentation.steps.noise",
        "predict network@previous_network=batch_norm",
        "convert labels={background:0,liver:1}",
    ],
)
def test_what_is_open_stays_open(line: str) -> None:
    checked(line)


PRESET = "# @package _global_\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trainr:\n  max_epochs: 3\n", "there is no setting 'trainr'"),
        ("trainer:\n  max_epoch: 3\n", "Did you mean 'trainer.max_epochs'?"),
        ("defaults:\n  - optional /study: nothing\n", "there is no 'nothing' for 'study'"),
        ("defaults:\n  - override /loss: dise\n", "Did you mean 'dice'?"),
        ("hydra:\n  sweeper:\n    params:\n      +foo: 1,2\n  mode: MULTIRUN\n", "there is no setting 'foo'"),
    ],
)
def test_files_of_the_users_own_are_read_as_closely(text: str, said: str, tmp_path: Path) -> None:
    own = write(tmp_path, experiment__mine=PRESET + text)
    message = refused("train experiment=mine", own)
    assert said in message
    if "setting 'trainr'" in said:
        assert "mine.yaml" in message


def test_a_preset_that_forgets_where_it_belongs_is_told(tmp_path: Path) -> None:
    own = write(tmp_path, experiment__mine="trainer:\n  max_epochs: 3\n")
    assert "must be: # @package _global_" in refused("train experiment=mine", own)


def test_parts_and_groups_of_the_users_own_need_no_leave(tmp_path: Path) -> None:
    own = write(
        tmp_path,
        loss__mine="_target_: my.Loss\n_partial_: true\nanything: 1\n",
        sampling__mine="_target_: my.Sampler\nanything: 1\n",
        study__a=f"{PRESET}trainer:\n  max_epochs: 3\n",
        trainer__short="defaults:\n  - nnunet\nmax_epochs: 2\nfast_dev_run: true\n",
    )
    checked("train loss=mine sampling=mine +study=a trainer=short", own)
    assert "there is no folder" in _said_of_folder(tmp_path / "nowhere")


def test_a_name_of_a_shipped_file_is_refused_where_that_one_would_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "loss" / "focal.yaml"
    file.parent.mkdir()
    shutil.copy(CONF / "loss" / "focal.yaml", file)
    assert _user_files.user_folders(["-cd", str(tmp_path)]) == [tmp_path], "the same file: nothing to choose"
    file.write_text("_target_: my.Loss\n_partial_: true\n")
    assert f"{file} has the name of a shipped file" in _said_of_folder(tmp_path)
    monkeypatch.setenv("SEGFLOW_CONF", str(tmp_path))
    assert tmp_path in _user_files.user_folders(["-cd", str(tmp_path)]), "there it is the one that is taken"


def _said_of_folder(folder: Path) -> str:
    with pytest.raises(Exception, match="--config-dir") as caught:
        _user_files.user_folders(["-cd", str(folder)])
    return str(caught.value)


def runs(arguments: list[str]) -> list[str]:
    """The run names of a sweep's jobs."""
    with _composition._composing("train", [], [CONF]) as name:
        sweep = _sweep.read(name, [a for a in arguments if not a.startswith("-")], [CONF], True)
        return [str(config.run_name) for _, config in sweep.jobs()]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("train -m fold=0,1 trainer.max_epochs=3", ["default", "default"]),
        ("train -m optimizer=sgd,adamw", ["optimizer-sgd", "optimizer-adamw"]),
        ("train -m optimizer.lr=0.1,0.01 run_name=mine", ["mine_optimizer.lr-0.1", "mine_optimizer.lr-0.01"]),
        ("train -m optimizer.lr=0.1,0.01 'run_name=x-${optimizer.lr}'", ["x-0.1", "x-0.01"]),
        (
            "train -m fold=0,1 validation=true,false run_name=2024",
            ["2024_validation-True", "2024_validation-False"] * 2,
        ),
        (
            "train -m run_name=a,b optimizer.lr=range(1,3)",
            ["a_optimizer.lr-1", "b_optimizer.lr-1", "a_optimizer.lr-2", "b_optimizer.lr-2"],
        ),
        (
            "train -m configuration.patch_size=[8,8,8],[16,8,8]",
            ["configuration.patch_size-8--8--8", "configuration.patch_size-16--8--8"],
        ),
        ("train -m training.initial_weights=/a/b,/c", ["training.initial_weights-a-b", "training.initial_weights-c"]),
    ],
)
def test_each_job_of_a_sweep_has_a_folder_of_its_own(line: str, names: list[str]) -> None:
    arguments = checked(line)
    assert sorted(runs(arguments)) == sorted(names)


def test_a_sweep_that_a_preset_asks_for_gets_names_too(tmp_path: Path) -> None:
    sweep = "run_name: mine\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      optimizer.lr: 0.1,0.01\n"
    own = write(tmp_path, experiment__sweep=PRESET + sweep)
    assert checked("train experiment=sweep", own)[-1] == "run_name='mine_optimizer.lr-${swept:optimizer.lr}'"


@pytest.mark.parametrize(
    "line",
    [
        "train -m fold.seed=1,1",
        "plan -m planner.memory_target_gb=6,8",
        "predict -m model=a,b input=i output=o",
        "evaluate -m prediction=a reference=b,c",
    ],
)
def test_a_sweep_whose_jobs_would_overwrite_each_other_is_refused_before_the_first(line: str) -> None:
    assert "write over each other's results" in refused(line)


def test_a_sweep_with_places_of_its_own_goes_on() -> None:
    checked("predict -m part=0/2,1/2 model=a input=i output=o")
    checked("plan -m planner=nnunet,resenc_m")
    checked("predict -m model=a,b input=i 'output=o/${model}'")
