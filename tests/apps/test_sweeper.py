"""A sweeper gets the value that it optimises, and Python gets it too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from apps_commands import PATHS, SHORT, start

import segflow
from segflow.apps import _command_line, _composition, _edge, _invocation
from segflow.core.errors import SegflowError
from segflow.training.tags import possible_tags

CONF = Path(__file__).resolve().parents[2] / "conf"
SWEEPER = '''
from pathlib import Path

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Best(Sweeper):
    """Tries each rate, and writes down what the jobs return."""

    def __init__(self, rates):
        self.rates = rates

    def setup(self, *, hydra_context, task_function, config):
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        jobs = [[*arguments, f"optimizer.lr={rate}", f"run_name=rate-{rate}"] for rate in self.rates]
        results = self.launcher.launch(jobs, initial_job_idx=0)
        Path("values.txt").write_text("\\n".join(str(result.return_value) for result in results))
'''


def checked(*arguments: str) -> list[str]:
    """The overrides that Hydra gets for ``segflow train -m``."""
    return _composition.checked("train", _command_line.rewrite("train", ["-m", *arguments], [CONF]), [CONF])[1:]


def test_trials_of_a_continuous_setting_have_runs_of_their_own() -> None:
    given = ["dataset=phantom", "++optimizer.lr=tag(log,interval(0.001,0.1))"]
    assert checked(*given) == [*given, "run_name='optimizer.lr-${swept:optimizer.lr}'"]


def test_what_is_typed_replaces_values_of_hydras_own_sweeper() -> None:
    given = ["dataset=phantom", "experiment=search"]
    assert checked(*given)[:-1] == given
    added = ["loss=dice_ce,dice", "augmentation=geometric,nnunet,nnunet_da5"]
    typed = checked(*given, "optimizer.lr=0.01")
    assert typed[:-1] == [*given, "++optimizer.lr=0.01", "hydra.sweeper.params=null", *added]
    assert typed[-1] == "run_name='loss-${swept:loss}_augmentation-${swept:augmentation}'"


def in_job(monkeypatch: pytest.MonkeyPatch, job: Path) -> None:
    """Work in a job's folder, without the paths that the tester's own environment sets."""
    for name in PATHS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(job)


def test_what_a_training_returns_is_what_a_sweeper_of_ones_own_optimises(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job / "hydra_plugins").mkdir()  # where Hydra wants its plugins
    (job / "hydra_plugins" / "best.py").write_text(SWEEPER)
    folder = job / "own_conf" / "hydra" / "sweeper"
    folder.mkdir(parents=True)
    (folder / "best.yaml").write_text("_target_: hydra_plugins.best.Best\nrates: [0.01, 0.02]\n")
    short = [*SHORT, "trainer.max_epochs=1", "validation=false", "objective=val/loss"]
    result = start(job, "train", "-m", "--config-dir=own_conf", "hydra/sweeper=best", *short)
    assert result.returncode == 0, result.stderr
    values = [float(text) for text in (job / "values.txt").read_text().split()]
    assert len(values) == 2
    two = ["trainer.devices=2", "trainer.accelerator=cpu", "hydra.sweeper.rates=[0.03]"]
    shared = start(job, "train", "-m", "--config-dir=own_conf", "hydra/sweeper=best", *short, *two)
    assert shared.returncode == 0, shared.stderr
    facts = json.loads(
        (job / "outputs/Dataset001_Phantom/tinyPlans/3d_fullres/rate-0.03/fold_0/finished.json").read_text()
    )
    assert float((job / "values.txt").read_text()) == facts["metrics"]["val/loss"]
    in_job(monkeypatch, job)
    trained = segflow.train(*short, "run_name=python", "optimizer.lr=0.01")
    assert trained.value == trained.metrics["val/loss"] == values[0]
    assert trained.finished
    assert not trained.pruned
    assert trained.folder == Path("outputs/Dataset001_Phantom/tinyPlans/3d_fullres/python/fold_0")
    again = segflow.train(*short, "run_name=python", "optimizer.lr=0.01", "objective=val/dice_ema")
    assert not again.result.trained
    assert again.value == trained.metrics["val/dice_ema"]


def test_without_an_objective_it_is_the_mean_dice_of_the_validation_cases(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_job(monkeypatch, job)
    trained = segflow.train(*SHORT, "save_probabilities=true")  # finished by the fixture
    summary = json.loads((trained.folder / "validation" / "summary.json").read_text())
    assert trained.value == summary["foreground_mean"]["Dice"]


def test_loggers_hear_what_was_chosen_from_python_as_from_the_command_line():
    _edge.compose("train", "dataset=phantom", "loss=dice", "optimizer.lr=0.1")
    assert {"loss": "dice", "optimizer": "sgd"}.items() <= _invocation.options().items()
    assert _invocation.overrides() == ["dataset=phantom", "loss=dice", "optimizer.lr=0.1"]


def test_every_value_that_is_logged_may_be_the_objective(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_job(monkeypatch, job)
    short = [*SHORT, "trainer.max_epochs=1", "validation=false", "run_name=volumes"]
    trained = segflow.train(*short, "training.volume_every=1", "objective=val_volume/dice_mean")
    assert trained.value == trained.metrics["val_volume/dice_mean"]
    assert set(trained.metrics) <= set(possible_tags(trained.labels))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["objective=val/dice_emma"], r"objective=val/dice_emma .*expected train/loss.*val/dice/liver.*'val/dice_ema'"),
        (["objective=val/dice_mean", "trainer.limit_val_batches=0"], "expected train/loss, lr, time/"),
        (["objective=val_volume/dice_mean"], "val/dice_mean"),
        (["optimizer=adamx"], "there is no 'adamx' for 'optimizer'.*adamw"),
        (["trainer.max_epoch=3"], r"trainer\.max_epoch.*max_epochs"),
        (["optimizer.lr=(1"], "cannot read the argument"),
        (["trainer.devices=2"], "segflow.train trains on one device.*devices=2"),
        (["plans=none_of_them"], "segflow plan"),
    ],
)
def test_what_python_gets_wrong_is_one_error_before_anything_is_trained(
    job: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], told: str
) -> None:
    in_job(monkeypatch, job)
    with pytest.raises(SegflowError, match=told):
        segflow.train(*SHORT, "run_name=wrong", *given)
    assert not (job / "outputs" / "Dataset001_Phantom" / "tinyPlans" / "3d_fullres" / "wrong").exists()


OWN_CALLBACK = """
from pytorch_lightning.callbacks import Callback


class Score(Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("mine/score", 0.25 + trainer.current_epoch)
"""


def test_a_callback_of_ones_own_may_log_the_objective(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job / "own_score.py").write_text(OWN_CALLBACK)
    in_job(monkeypatch, job)
    own = [*SHORT, "validation=false", "callbacks.score._target_=own_score.Score"]
    trained = segflow.train(*own, "run_name=mine", "objective=mine/score")
    assert trained.value == 1.25
    with pytest.raises(SegflowError, match=r"objective=mine/scoer .*expected .*mine/score"):
        segflow.train(*own, "run_name=mistyped", "objective=mine/scoer")
    assert not (trained.folder.parents[1] / "mistyped" / "fold_0" / "finished.json").exists()
    with pytest.raises(SegflowError, match=r"objective=mine/other .*expected .*mine/score"):
        segflow.train(*own, "run_name=mine", "objective=mine/other")  # finished before


def test_a_pruned_training_is_not_finished_and_can_go_on(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_job(monkeypatch, job)
    seen: list[tuple[int, float]] = []

    def judge(epoch: int, values: Mapping[str, float]) -> bool:
        seen.append((epoch, values["val/dice_ema"]))
        return True

    name = [*SHORT, "trainer.max_epochs=3", "run_name=pruned"]
    pruned = segflow.train(*name, judge=judge)
    assert pruned.pruned
    assert not pruned.finished
    assert seen == [(0, pruned.value)]
    files = {file.name for file in pruned.folder.iterdir()}
    assert "pruned.json" in files
    assert not {"finished.json", "validation"} & files
    assert not (pruned.folder / "checkpoints" / "final.ckpt").exists()
    done = segflow.train(*name, "validation=false")
    assert done.finished
    assert not (pruned.folder / "pruned.json").exists()
    whole = segflow.train(*SHORT, "trainer.max_epochs=3", "run_name=whole", "validation=false")
    assert done.metrics["train/loss"] == whole.metrics["train/loss"]
    last = segflow.train(*SHORT, "trainer.max_epochs=1", "run_name=last", "validation=false", judge=judge)
    assert last.finished  # there was nothing left to spare
    assert not last.pruned


def test_a_training_reads_copies_on_the_disk_that_a_variable_names(
    job: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_job(monkeypatch, job)
    short = [*SHORT, "trainer.max_epochs=1", "validation=false", "paths.scratch=${oc.env:NODE_DISK}/arrays"]
    with pytest.raises(SegflowError, match=r"setting 'paths\.scratch': the environment variable NODE_DISK is not set"):
        segflow.train(*short)
    monkeypatch.setenv("NODE_DISK", str(tmp_path))
    near = segflow.train(*short, "run_name=near")
    far = segflow.train(*short, "run_name=far", "paths.scratch=null")
    assert near.value == far.value
    assert len(list(tmp_path.glob("arrays/*/*/*.json"))) == 16
    assert "copying 16 of 16 cases" in (near.folder / "train.log").read_text()
    arrays = [json.loads((run.folder / "run.json").read_text())["arrays"] for run in (near, far)]
    assert arrays[0] == arrays[1]


def test_optunas_sweeper_takes_the_objective_from_trainings(job: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs Hydra 1.4 and its Optuna plugin: make next")
    sweeper = [f"hydra.sweeper.{word}" for word in ("n_trials=2", "n_jobs=1", "direction=maximize")]
    short = [*SHORT, "trainer.max_epochs=1", "objective=val/dice_ema", "optimizer.lr=interval(0.001,0.1)"]
    result = start(job, "train", "-m", "dataset=phantom", "hydra/sweeper=optuna", *sweeper, *short, "validation=false")
    assert result.returncode == 0, result.stderr
    best = yaml.safe_load((job / "outputs" / "optimization_results.yaml").read_text())
    runs = job / "outputs" / "Dataset001_Phantom" / "tinyPlans" / "3d_fullres"
    ends = [json.loads(file.read_text()) for file in runs.glob("optimizer.lr-*/fold_0/finished.json")]
    values = [end["metrics"]["val/dice_ema"] for end in ends]
    assert len(values) == 2
    assert best["best_value"] == max(values)


def test_the_package_is_quick_to_import() -> None:
    script = "import sys, segflow; sys.exit(' '.join({'torch', 'hydra', 'numpy'} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
