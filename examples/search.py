"""A search with Optuna for learning rate, loss and augmentation: short trainings, of which bad ones are ended early.

    pip install segflow[search]
    python examples/search.py --trials 30 --folds 0,1 dataset=42 configuration=3d_fullres

Everything that is not an option goes to each training, as after `segflow train`. The presets of ``experiment=search``
come first: 100 epochs, which are the budget of a trial, and no validation of whole cases. The value of a trial is the
mean of ``val/dice_ema`` over the folds, which are trained one after another. The median of the other trials ends a bad
one after an epoch, mostly of its first fold, since Optuna compares the best value that a trial has had so far.

Trials stand in a database, by default an SQLite file. The same command goes on where it was ended, in whatever way: no
finished trial is trained again, and one that was killed goes on from its checkpoint once its worker was silent for
three heartbeats. Started several times at once, with one GPU each, the workers share the trials:

    CUDA_VISIBLE_DEVICES=1 python examples/search.py --trials 30 --folds 0,1 dataset=42 configuration=3d_fullres

SQLite is for the workers of one machine. For several, ``--storage`` names a database server that Optuna knows.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from statistics import fmean

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import MaxTrialsCallback, Study
from optuna.trial import Trial, TrialState

import segflow
from segflow.core.command_line import command_line
from segflow.core.errors import SegflowError

PRESET = "experiment=search"
VALUE = "val/dice_ema"
FIRST = {"optimizer.lr": 0.01, "loss": "dice_ce", "augmentation": "nnunet"}
"""The first trial: nnU-Net's recipe."""
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def suggested(trial: Trial) -> dict[str, object]:
    """The settings to try. Change these lines, and `FIRST`, to what you search for."""
    return {
        "optimizer.lr": trial.suggest_float("optimizer.lr", 1e-3, 1e-1, log=True),
        "loss": trial.suggest_categorical("loss", ["dice_ce", "dice"]),
        "augmentation": trial.suggest_categorical("augmentation", ["geometric", "nnunet", "nnunet_da5"]),
    }


def score(trial: Trial, settings: Sequence[str], folds: Sequence[str]) -> float:
    """Train the folds of a trial, one after another.

    Args:
        trial: The trial.
        settings: Arguments of every training.
        folds: The folds, whose mean is the trial's value.

    Raises:
        optuna.TrialPruned: It is worse than the median of the others, or its training failed.
        SegflowError: The first trial failed, as all others would.
    """
    chosen = [f"{name}={value}" for name, value in suggested(trial).items()]
    name = trial.user_attrs.get("run") or f"{trial.study.study_name}-{trial.number}"
    trial.set_user_attr("run", name)  # if it is killed, its successor has this name too, and goes on in that folder
    values: list[float] = []
    epochs = 0
    for fold in folds:

        def hopeless(epoch: int, metrics: Mapping[str, float], before: int = epochs) -> bool:
            if VALUE not in metrics:
                return False
            trial.report(fmean([*values, metrics[VALUE]]), before + epoch)
            return trial.should_prune()

        own = [f"objective={VALUE}", f"fold={fold}", f"run_name={name}"]
        try:
            trained = segflow.train(PRESET, *settings, *chosen, *own, judge=hopeless)
        except SegflowError as error:
            if not trial.study.get_trials(deepcopy=False, states=DONE):
                raise
            raise optuna.TrialPruned(str(error)) from error
        if trained.pruned:
            raise optuna.TrialPruned(f"after {trained.result.epochs} epochs of fold {fold}")
        if not trained.finished:  # a file STOP in its folder
            raise SystemExit("stopped; the same command goes on")
        if trained.value is None:
            raise SegflowError(f"the training gave no {VALUE}", found=trained.folder)
        values.append(trained.value)
        epochs += trained.result.epochs
    return fmean(values)


def opened(options: argparse.Namespace) -> Study:
    """The study in the database, made if there is none."""
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    patient = {"connect_args": {"timeout": 60}} if options.storage.startswith("sqlite") else {}
    try:
        storage = RDBStorage(
            options.storage,
            engine_kwargs=patient,
            heartbeat_interval=options.heartbeat,
            grace_period=3 * options.heartbeat,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True),
        )
        study = optuna.create_study(
            study_name=options.name,
            storage=storage,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=options.startup, n_warmup_steps=options.warmup),
            load_if_exists=True,
        )
    except Exception as error:  # each database has its own
        cause = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        raise SegflowError(f"--storage={options.storage} cannot be used", found=cause) from error
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(FIRST, skip_if_exists=True)
    return study


def main(arguments: Sequence[str] | None = None) -> Study:
    """Search until so many trials are done, and print the best."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--trials", type=int, default=30, help="trials in all, of all workers and starts")
    parser.add_argument("--folds", default="0", help="folds whose mean is a trial's value, such as 0,1,2")
    parser.add_argument("--storage", default="sqlite:///search.db", help="database of the trials")
    parser.add_argument("--name", default="search", help="name of the study, with which names of its runs begin")
    parser.add_argument("--startup", type=int, default=5, help="trials before any is pruned")
    parser.add_argument("--warmup", type=int, default=10, help="epochs of a trial before it is pruned")
    parser.add_argument("--heartbeat", type=int, default=20, help="seconds between signs of life of a worker")
    options, settings = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    study = opened(options)
    folds = options.folds.split(",")
    if len(study.get_trials(deepcopy=False, states=DONE)) < options.trials:
        enough = MaxTrialsCallback(options.trials, states=DONE)
        study.optimize(lambda trial: score(trial, settings, folds), callbacks=[enough])
    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        print("Every trial was pruned.")
        return study
    best = study.best_trial
    print(f"Trial {best.number} is the best of {len(study.trials)}: {VALUE} {best.value:.4f}")
    print(command_line("train", *settings, *(f"{name}={value}" for name, value in best.params.items())))
    return study


if __name__ == "__main__":
    try:
        main()
    except SegflowError as problem:
        sys.exit(f"search: {problem}")
