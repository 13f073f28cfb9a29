"""``segflow run``: raw dataset → the chosen configuration's or ensemble's predictions, every step in turn."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from segflow.apps import (
    _datasets,
    _invocation,
    _next,
    _shards,
    _terminal,
    ensemble,
    plan,
    postprocess,
    predict,
    preprocess,
    report,
    select,
)
from segflow.apps import train as training
from segflow.apps._records import within_memory
from segflow.core.errors import CaseErrors, NoSpaceError, SegflowError
from segflow.inference.ensemble_settings import EnsembleSettings

if TYPE_CHECKING:
    from segflow.core.plans import Plans
    from segflow.core.selection import Candidate, Selection
    from segflow.planning.plan_dataset import PlanReport


ALL = "all"
AUTO = "auto"
PREDICTIONS = "predictions"
MEMBER = "member_{}"
POSTPROCESSED = "postprocessed"

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Run(training.Train, plan.Plan, preprocess.Preprocess, select.Select):
    """Settings of ``segflow run``: those of the commands that it runs in turn.

    Attributes:
        only: Train this fold alone, such as ``3d_fullres/0``, and do no other step. Jobs of a launcher are started
            with it.
    """

    SECTION: ClassVar = ""
    PLACES: ClassVar[tuple[str, ...]] = (*training.Train.PLACES, "only")

    only: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.trainer.enable_checkpointing or self.trainer.more.get("fast_dev_run"):
            raise SegflowError(
                "segflow run predicts with what it trains, and this trainer keeps no weights",
                fix="Leave it on; to measure the speed alone: segflow train trainer=benchmark",
            )


@within_memory
def run(settings: Run) -> float | None:
    """Run every command in turn. Finished steps are skipped, so the same command continues after a stop.

    Returns:
        None; with ``only`` the value of the training.

    Raises:
        CaseErrors: Some folds or cases failed; the others are done.
    """
    if settings.only:
        from segflow.apps import _run_jobs  # slow

        return training.run(_run_jobs.of_job(settings, settings.only))
    started = time.monotonic()
    paths = settings.paths
    _datasets.announce(settings, "run")
    logger.info("1/6 plan")
    planned = plan.plan(settings)
    plan.show(planned, settings.estimate_time)
    names = chosen_configurations(settings.configuration.name, planned.plans)
    folds = chosen_folds(settings.fold.index, planned)
    logger.info("2/6 preprocess %s", ", ".join(names))
    preprocess.preprocess(replace(settings, configurations=names))
    logger.info("3/6 train %d folds of %s", len(folds), ", ".join(names))
    runs = train(settings, planned.plans, names, folds)
    logger.info("4/6 select")
    dataset = planned.folder.name
    outputs = paths.outputs / dataset
    selection = select.select(settings, runs, paths.references(dataset), outputs)
    logger.info("5/6 predict with %s", selection.best.name)
    raw = _datasets.raw_folder(settings.dataset, paths)
    images = raw / "imagesTs"
    predictions = None
    if images.is_dir() and any(images.iterdir()):
        predictions = apply_selection(settings, selection, images, outputs / PREDICTIONS / _folder(selection.best))
    logger.info("6/6 report")
    from segflow.apps import _run_page  # slow

    page = outputs / report.PAGE
    _run_page.write(Path(selection.best.runs[0]), page, _run_page.Options(paths), raw=raw)
    select.show(selection)
    _terminal.say(f"Report       {page}")
    if predictions is not None:
        _terminal.say(f"Predictions  {predictions} (of {images})")
    _terminal.say("To predict others:")
    for command in selection.commands:
        _terminal.say(f"  {command}")
    _next.say(_next.after_run(predictions, images, Path(selection.best.runs[0]), paths))
    _terminal.say(f"Done in {time.monotonic() - started:.0f} s.")
    return None


def chosen_configurations(wanted: str | Sequence[str], plans: Plans) -> list[str]:
    """Names of configurations, each after its previous stage.

    Args:
        wanted: ``auto`` for all configurations of the plans, a name, or names.
        plans: The plans.

    Raises:
        SegflowError: There is no configuration of a name.
    """
    names = [wanted] if isinstance(wanted, str) else [str(name) for name in wanted]
    ordered: list[str] = []
    waiting = list(plans.configurations) if names == [AUTO] else names
    while waiting:
        name = waiting.pop(0)
        previous = plans.configuration(name).previous_stage
        if previous and previous not in ordered:
            waiting = [previous, name, *waiting]
        elif name not in ordered:
            ordered.append(name)
    return ordered


def chosen_folds(wanted: str | int | Sequence[int], planned: PlanReport) -> list[int]:
    """Numbers of folds.

    Args:
        wanted: ``all`` for all folds, a number, or numbers.
        planned: Result of planning, with the splits.

    Raises:
        SegflowError: The dataset is too small to be split.
    """
    if wanted != ALL:
        return [int(fold) for fold in ([wanted] if isinstance(wanted, str | int) else wanted)]
    if not planned.splits:
        raise SegflowError(
            "there are too few cases for folds, and nothing can be selected without",
            fix="Ask for fewer: fold.folds=2; or train on all: segflow train fold=all",
        )
    return list(range(len(planned.splits)))


def train(settings: Run, plans: Plans, names: Sequence[str], folds: Sequence[int]) -> list[Path]:
    """Train every fold of every configuration: by the launcher, or one after another.

    Folds on several devices have a process of their own, since Lightning starts its command line for each device.

    Returns:
        The runs' folders.

    Raises:
        CaseErrors: Some folds failed or were stopped; the others are trained.
    """
    if _invocation.has_launcher() or not settings.trainer.is_one_process:
        from segflow.apps import _run_jobs

        stages = {name: plans.configuration(name).previous_stage for name in names}
        runs, problems = _run_jobs.train_by_jobs(settings, stages, folds)
    else:
        runs, problems = _train_in_turn(settings, names, folds)
    if problems:
        raise CaseErrors("some folds are not trained", problems, "To train them, run the same command again.")
    return runs


def _train_in_turn(settings: Run, names: Sequence[str], folds: Sequence[int]) -> tuple[list[Path], list[str]]:
    """Train in this process. Returns the runs' folders, and a message for each fold that failed or was stopped."""
    runs: dict[Path, None] = {}
    problems = []
    for name in names:
        for index in folds:
            configuration, fold = replace(settings.configuration, name=name), replace(settings.fold, index=index)
            try:
                result = training.train(replace(settings, configuration=configuration, fold=fold)).result
            except NoSpaceError:
                raise
            except Exception as error:  # whatever happened to this fold, the others can be trained
                logger.error("%s fold %d failed: %s", name, index, error, exc_info=logger.isEnabledFor(logging.DEBUG))
                kind = "" if isinstance(error, SegflowError) else f"{type(error).__name__}: "
                problems.append(f"{name} fold {index}: {kind}{error}")
                continue
            runs[result.folder.parent] = None
            if not result.finished:
                problems.append(f"{name} fold {index}: stopped after epoch {result.epochs}")
    return list(runs), problems


def apply_selection(settings: Run, selection: Selection, images: Path, output: Path) -> Path:
    """Predict with the chosen runs, average if there are several, and postprocess.

    Returns:
        Folder of the final label maps.

    Raises:
        CaseErrors: Some cases could not be predicted; the others are done.
    """
    from segflow.postprocessing.apply_postprocessing import read_choice

    best = selection.best
    alone = len(best.runs) == 1
    members = [output if alone else output / MEMBER.format(k) for k in range(1, len(best.runs) + 1)]
    failed: dict[str, str] = {}
    inference = settings.inference
    if settings.trainer.accelerator == "cpu" and inference.device == "auto":  # what trains on no GPU predicts on none
        inference = replace(inference, device="cpu")
    for model, folds, folder in zip(best.runs, best.folds, members, strict=True):
        done = predict.predict(
            predict.Predict(
                model=Path(model),
                input=[images],
                output=folder,
                inference=replace(inference, folds=list(folds), probabilities=not alone),
                network=settings.network,
                normalization=settings.normalization,
                shards=settings.shards,
                paths=settings.paths,
                reader=settings.reader,
                max_memory_gb=settings.max_memory_gb,
                verbose=settings.verbose,
            ),
            own=True,
        )
        failed.update(done.failed)
    if not alone:
        averaged = ensemble.average(members, output, EnsembleSettings(resume=settings.inference.resume), own=True)
        failed = {**averaged.failed, **failed}
    choice = read_choice(Path(selection.postprocessing))
    if choice.steps:
        applied = postprocess.apply(output, choice, output / POSTPROCESSED, own=True)
        failed = {**applied.failed, **failed}
        output = output / POSTPROCESSED
    if failed:
        raise CaseErrors("some cases could not be predicted", _shards.problems(failed.values()))
    return output


def _folder(candidate: Candidate) -> str:
    """The candidate's name as a folder name, so that every selection predicts into its own folder."""
    return candidate.name.replace(" + ", "__").replace("/", "-")
