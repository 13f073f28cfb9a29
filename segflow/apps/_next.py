"""The command line to run after a command, with the dataset, plans, configuration and folds that exist.

Every line can be pasted as it is. If only the user can name a folder of images, there is no line.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from segflow.apps import _at_hand, _datasets, _invocation, _terminal
from segflow.apps._own_parts import typed
from segflow.apps._records import Command, DatasetCommand, PathSettings
from segflow.core.command_line import command_line, setting_text
from segflow.core.errors import SegflowError
from segflow.storage.file_names import CHOICE_FILE, FOLD_PREFIX
from segflow.storage.runs import Run

if TYPE_CHECKING:
    from segflow.apps.postprocess import Postprocess
    from segflow.apps.predict import Predict
    from segflow.apps.preprocess import Preprocess
    from segflow.apps.train import Train

Arguments = ParamSpec("Arguments")

TRAINED_WITH = {
    "mednext": ("optimizer=adamw", "optimizer.lr=0.001"),
    "primus": ("experiment=primus",),
    "swin_unetr": ("optimizer=adamw", "optimizer.lr=0.0001"),
}
"""Network of the plans → settings of its published training, which nnU-Net's recipe does not fit."""

logger = logging.getLogger(__name__)

SHIPPED_NETWORK = "segflow.network.build.build_network"
"""Target of the network that prediction builds by default."""

PREDICTIONS = "predictions"
POSTPROCESSED = "postprocessed"
FIRST = ("3d_fullres", "2d", "3d_lowres")
"""Configurations that can be trained first, the most useful one first."""


def _or_nothing(decide: Callable[Arguments, list[str]]) -> Callable[Arguments, list[str]]:
    """Print nothing if a file cannot be read, since the command itself has done its work."""

    @wraps(decide)
    def decided(*positional: Arguments.args, **named: Arguments.kwargs) -> list[str]:
        try:
            return decide(*positional, **named)
        except (SegflowError, OSError) as error:
            logger.debug("no next command: %s", error)
            return []

    return decided


def say(lines: Sequence[str]) -> None:
    """Print each line as a next command."""
    for line in lines:
        _terminal.say(f"Next: {line}")


# --------------------------------------------------------------------------------------------- up to the training


@_or_nothing
def after_convert(settings: Command, folder: Path) -> list[str]:
    """Next command: plan the dataset that was made."""
    return [_command("plan", dataset__path=folder, **_paths(settings.paths))]


@_or_nothing
def after_doctor(settings: DatasetCommand) -> list[str]:
    """Next command: plan the dataset, which has no errors."""
    return [_command("plan", **_same(settings))]


def mending(settings: DatasetCommand, raw: Path) -> str:
    """The command line that writes a mended copy beside a raw dataset."""
    output = raw.resolve().with_name(f"{raw.resolve().name}_mended")
    return _command("doctor", **_same(settings), fix=True, output=output)


@_or_nothing
def after_mending(settings: DatasetCommand, folder: Path) -> list[str]:
    """Next command: plan the mended copy."""
    return [planning_of_copy(settings, folder)]


def planning_of_copy(settings: DatasetCommand, folder: Path) -> str:
    """The command line that plans a mended copy."""
    return _command("plan", dataset__path=folder, **_paths(settings.paths))


@_or_nothing
def after_plan(settings: DatasetCommand, plans_name: str) -> list[str]:
    """Next command: make the arrays of these plans."""
    return [command_line("preprocess", *typed("reader", "normalization"), **_same(settings), plans=plans_name)]


@_or_nothing
def after_preprocess(settings: Preprocess, prepared: Path) -> list[str]:
    """Next command: train a configuration that has arrays, on a fold that exists.

    Args:
        settings: Settings of the command.
        prepared: Folder of the plans.
    """
    from segflow.storage.prepared_dataset import PreparedDataset  # slow: image formats

    dataset = PreparedDataset(prepared)
    plans = dataset.read_plans(settings.plans)
    asked = settings.configurations or list(plans.configurations)
    names = [asked] if isinstance(asked, str) else asked
    name = next((first for first in FIRST if first in names), names[0])
    fold = 0 if _at_hand.folds_of(dataset) else "all"
    recipe = TRAINED_WITH.get(plans.configuration(name).topology.network, ())
    return [_command("train", *recipe, **_same(settings), plans=settings.plans, configuration=name, fold=fold)]


@_or_nothing
def after_train(settings: Train, folder: Path, *, finished: bool) -> list[str]:
    """Next commands: continue the fold, train the remaining folds, or compare the trained runs; and predict.

    Args:
        settings: Settings of the command.
        folder: Folder of the fold.
        finished: Whether the training reached its end.
    """
    from segflow.storage.prepared_dataset import PreparedDataset  # slow: image formats

    if not finished:
        return [_again(settings, f"fold={settings.fold.index}")] if not _invocation.is_sweep() else []
    run, prepared = Run.of(folder), PreparedDataset(settings.paths.preprocessed / folder.parents[3].name)
    folds = _at_hand.folds_of(prepared) if folder != run.fold("all").path else []
    waiting = [fold for fold in folds if not run.fold(fold).is_finished()]
    lines = []
    if waiting and not _invocation.is_sweep():
        swept = len(waiting) > 1
        lines.append(_again(settings, f"fold={','.join(map(str, waiting))}", *(["-m"] if swept else [])))
    elif folds and not waiting and len(run.validated_folds()) == len(folds):
        lines.append(_command("select", **_same(settings)))
    whole = bool(folds) and not waiting
    return [*lines, *_predict(settings, run.path if whole else folder)]


def _again(settings: Train, fold: str, *flags: str) -> str:
    """The command line of this training with other folds."""
    given = [override for override in _invocation.overrides() if not re.match(r"fold(\.index)?=", override)]
    if not given:
        which = {"plans": settings.plans, "configuration": settings.configuration.name, "run_name": settings.run_name}
        return command_line("train", *_invocation.config_flags(), *flags, fold, **_same(settings), **which)
    return command_line("train", *_invocation.config_flags(), *flags, *_datasets.shortened_words(given), fold)


def _predict(settings: Train, model: Path) -> list[str]:
    """Next command: predict the dataset's test images, with the network if it is a user's own."""
    raw = _datasets.present_raw_folder(settings.dataset, settings.paths)
    images = _at_hand.images_of(raw)
    if images is None or _at_hand.has_own_normalizations(model):  # whose option of a group is not known here
        return []
    own = [] if settings.network.target == SHIPPED_NETWORK else ["network"]
    output = settings.paths.outputs / _at_hand.model_dataset(model) / PREDICTIONS / _name_of(model)
    return [command_line("predict", *typed("reader", *own), model=model, input=images, output=output)]


# ------------------------------------------------------------------------------------------ from the training on


@_or_nothing
def after_predict(settings: Predict) -> list[str]:
    """Next command: score the label maps if the images have references; else report on the model, or choose steps."""
    output, model = settings.output, settings.model
    sources = settings.input or []
    reference = _at_hand.references_of(sources[0]) if len(sources) == 1 else None
    if output is not None and reference is not None:
        return [_command("evaluate", prediction=output, reference=reference)]
    run = _at_hand.run_of(model) if model is not None else None
    if run is None or output is None:
        return []
    choice = run.crossval() / CHOICE_FILE
    if choice.is_file():
        return [_apply(output, choice)]
    if len(run.validated_folds()) > 1:
        return [_command("postprocess", action="choose", run=run.path, **_paths(settings.paths))]
    return [_command("report", run=model, **_paths(settings.paths))]


@_or_nothing
def after_ensemble(members: Sequence[Path], output: Path) -> list[str]:
    """Next command: score the averages, if the members' images have references."""
    reference = _at_hand.references_behind(members[0])
    return [_command("evaluate", prediction=output, reference=reference)] if reference else []


@_or_nothing
def after_evaluate(prediction: Path, reference: Path) -> list[str]:
    """Next command: choose steps that raise the scores."""
    if prediction.name == POSTPROCESSED:
        return []
    return [_command("postprocess", action="choose", prediction=prediction, reference=reference)]


@_or_nothing
def after_choice(settings: Postprocess, prediction: Path, choice: Path, *, has_steps: bool) -> list[str]:
    """Next command: apply the steps, or predict with the run that they were chosen for.

    Args:
        settings: Settings of the command.
        prediction: The label maps on which the steps were chosen.
        choice: File of the steps.
        has_steps: Whether there are any.
    """
    if settings.run is not None:
        return with_model(settings.run, settings.paths)
    return [_apply(prediction, choice)] if has_steps else []


@_or_nothing
def after_steps(prediction: Path, output: Path) -> list[str]:
    """Next command: score the postprocessed label maps, if the images' references are known."""
    reference = _at_hand.references_behind(prediction)
    return [_command("evaluate", prediction=output, reference=reference)] if reference else []


@_or_nothing
def after_selection(commands: Sequence[str], name: str, images: Path | None, paths: PathSettings) -> list[str]:
    """Next commands: predict the dataset's test images with the selection.

    Args:
        commands: Commands of the selection, with INPUT and OUTPUT for the folders.
        name: Name of the dataset.
        images: Its test images, if they exist.
        paths: Folders of datasets and runs.
    """
    if images is None:
        return []
    folders = {"INPUT": images, "OUTPUT": paths.outputs / name / PREDICTIONS / "selected"}
    texts = {word: str(folder) for word, folder in folders.items()}
    if any(setting_text(folder) != texts[word] for word, folder in folders.items()):
        return []
    word_of_folder = re.compile(r"(?<=[=\[,])(INPUT|OUTPUT)(?=$|[/,\]])")

    def put(command: str) -> str:
        return shlex.join(word_of_folder.sub(lambda match: texts[match[1]], word) for word in shlex.split(command))

    return [put(command) for command in commands]


@_or_nothing
def after_run(predictions: Path | None, images: Path | None, best: Path, paths: PathSettings) -> list[str]:
    """Next commands: score the predictions of the test images, and export the best run as one file."""
    reference = _at_hand.references_of(images) if images is not None else None
    known = predictions is not None and reference is not None
    scores = [_command("evaluate", prediction=predictions, reference=reference)] if known else []
    return [*scores, *after_report(best, paths)]


@_or_nothing
def after_demo(fold: Path) -> list[str]:
    """Next command: report on the run."""
    return [_command("report", run=fold)]


@_or_nothing
def after_report(run: Path, paths: PathSettings) -> list[str]:
    """Next command: export the run as one file."""
    file = paths.outputs / _at_hand.model_dataset(run) / f"{_name_of(run)}.segflow"
    return [_command("bundle", action="export", model=run, output=file)]


@_or_nothing
def after_compare(runs: Sequence[Path]) -> list[str]:
    """Next command: a page about runs that were compared, with their curves and settings."""
    of_runs = len(runs) > 1 and all(path.is_dir() and _at_hand.run_of(path) is not None for path in runs)
    return [_command("report", run=list(runs))] if of_runs else []


@_or_nothing
def with_model(model: Path, paths: PathSettings, of: Path | None = None) -> list[str]:
    """The command line that predicts the test images of a model's dataset, if they exist.

    Args:
        model: Any model.
        paths: Folders of datasets and runs.
        of: Folder of the run that the model was made from; None for the model itself.
    """
    run = _at_hand.run_of(of or model)
    if run is None:
        return []
    name = _at_hand.model_dataset(run.path)
    images = _at_hand.images_of(paths.raw / name)
    output = paths.outputs / name / PREDICTIONS / _name_of(model)
    if images is None or _at_hand.has_own_normalizations(run.path):
        return []
    return [_command("predict", model=model, input=images, output=output)]


def _name_of(model: Path) -> str:
    """A name for results of a model: its configuration, run name and fold."""
    parts = [part for part in model.parts[-3:] if part not in ("..", "/")]
    if not model.name.startswith(FOLD_PREFIX):
        parts = parts[-2:]
    return "_".join(parts).removesuffix(".segflow").removesuffix(".zip")


def _apply(prediction: Path, choice: Path) -> str:
    output = prediction / POSTPROCESSED
    return _command("postprocess", action="apply", prediction=prediction, choice=choice, output=output)


def _command(name: str, *words: str, **values: object) -> str:
    """A command line, with the image reader if it is a user's own."""
    return command_line(name, *typed("reader"), *words, **values)


def _same(settings: DatasetCommand) -> dict[str, object]:
    """Settings that name a command's dataset and its folders."""
    return {**_datasets.as_settings(settings.dataset), **_paths(settings.paths)}


def _paths(paths: PathSettings) -> dict[str, object]:
    """Settings for folders that differ from those of the environment."""
    usual = PathSettings()
    names = ("raw", "preprocessed", "outputs")
    return {f"paths__{name}": getattr(paths, name) for name in names if getattr(paths, name) != getattr(usual, name)}
