"""The work of ``segflow train``. It loads torch and Lightning, so that ``train.py`` need not."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from segflow.apps import (
    _datasets,
    _invocation,
    _lightning,  # noqa: F401  # before all that imports Lightning
    _settings,
    _sources,
    _terminal,
    evaluate,
)
from segflow.apps._inputs import Inputs
from segflow.apps._parts import Part
from segflow.apps.train import place_in_team
from segflow.core.command_line import command_line
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.labels import Labels
from segflow.core.metrics import Summary
from segflow.evaluation.evaluate_cases import evaluate_cases
from segflow.evaluation.evaluate_settings import EvaluateSettings, overlap_only
from segflow.execution.progress import Progress, silent
from segflow.inference.next_stage import open_previous_stage
from segflow.inference.predict_settings import AUTO, PredictSettings, SlidingWindowSettings
from segflow.inference.predict_validation import predict_validation
from segflow.inference.score_volumes import volume_scorer
from segflow.network.cpu.allocation import tune_cpu
from segflow.network.precision import OF_TRAINING
from segflow.planning.split_dataset import split_dataset
from segflow.storage.folds import HYDRA_FOLDER, Fold
from segflow.storage.json_files import written_whole
from segflow.storage.links import refuse_link
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.runs import Run
from segflow.training.claim_folder import check_arrays_of_run, release_folder
from segflow.training.hyper_parameters import PARTS, flattened
from segflow.training.loggers import log_scores
from segflow.training.objective import not_logged
from segflow.training.protocols import EpochJudge, TrainingParts, TrainResult, VolumeScorer
from segflow.training.ranks import is_first_rank, joined, team
from segflow.training.tags import FINAL_DICE, FINAL_DICE_OF
from segflow.training.team import Team
from segflow.training.train_fold import train_fold
from segflow.training.training_devices import TrainingDevices, training_devices
from segflow.training.training_job import FoldArrays

if TYPE_CHECKING:
    from segflow.apps.train import Train

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """Result of ``segflow train``.

    Attributes:
        result: Result of the training.
        summary: Scores of the validation cases, or None.
        labels: The label definition of the scores.
        objective: Tag of the value that a sweep optimises; None is the mean Dice, see `value`.
    """

    result: TrainResult
    summary: Summary | None
    labels: Labels
    objective: str | None = None

    @property
    def value(self) -> float | None:
        """The value that a sweep optimises: the last one of the objective.

        Without an objective it is the mean Dice of whole validation cases, else the moving average of that of patches.
        """
        if self.objective is None and self.summary is not None:
            return float(self.summary.score)
        return self.metrics.get(self.objective or "val/dice_ema")

    @property
    def folder(self) -> Path:
        """The fold's folder."""
        return self.result.folder

    @property
    def metrics(self) -> Mapping[str, float]:
        """Last value of every curve, under its TensorBoard tag."""
        return self.result.metrics

    @property
    def finished(self) -> bool:
        """Whether the training reached its end."""
        return self.result.finished

    @property
    def pruned(self) -> bool:
        """Whether it was ended before, as not worth going on."""
        return self.result.pruned

    def show(self, title: str) -> None:
        """Print the scores, if there are any."""
        if self.summary is not None:
            evaluate.show(self.summary, self.labels, title)


def train_inputs(settings: Train, inputs: Inputs, judge: EpochJudge | None = None) -> Trained:
    """Train a fold, then predict and score its validation cases.

    Args:
        settings: Settings of the command.
        inputs: What it is trained on.
        judge: Decides after each epoch whether the training is worth going on.
    """
    tune_cpu()
    with join(settings):
        if not is_first_rank():  # only one process reports
            logging.getLogger("segflow").setLevel(logging.ERROR)
        return _train(settings, inputs, judge)


def join(settings: Train) -> AbstractContextManager[Team]:
    """Join the processes that train the fold together. Outside of the first call it does nothing."""
    dataset, configuration = settings.dataset, settings.configuration.name
    what = (dataset.name, settings.plans, configuration, settings.run_name, settings.fold.index)
    return joined(place_in_team(settings), "/".join(map(str, what)))


def _train(settings: Train, inputs: Inputs, judge: EpochJudge | None) -> Trained:
    alone = inputs.folder.locked() if is_first_rank() else nullcontext()
    previous = previous_stage(settings, inputs)
    window = _window_of_training(settings)
    scorer = volume_scorer(inputs.record, inputs.store, inputs.references, window, previous_stage=previous)
    parts = replace(
        training_parts(settings, scorer),
        objective=settings.objective,
        judge=judge,
        chosen=_chosen(settings),
        cases_after=len(inputs.record.val_cases) if settings.validation else 0,
    )
    with alone, _log_file(inputs.folder):
        if is_first_rank():
            _sources.check_sources(inputs, settings.dataset, settings.paths)
            release_folder(inputs.folder)
            _write_configuration(inputs)
        with _progress(settings) as progress:
            result = train_fold(
                inputs.folder,
                inputs.record,
                FoldArrays(inputs.store, previous, inputs.preprocess, settings.paths.scratch),
                parts,
                settings.training,
                progress=progress,
            )
        if result.finished and settings.objective not in (None, *result.metrics):  # finished by an earlier start
            raise not_logged(str(settings.objective), list(result.metrics))
        wanted = settings.validation and result.finished and result.has_weights and inputs.record.val_cases
        summary = _validate(settings, inputs, previous) if wanted else None
        if summary is not None and result.trained:
            log_scores(
                parts.loggers, inputs.folder.path, _as_tags(summary, inputs.record.dataset.labels), result.epochs
            )
    return Trained(result, summary, inputs.record.dataset.labels, settings.objective)


def _progress(settings: Train) -> AbstractContextManager[Progress]:
    """What shows the progress of the training. Only one process shows it."""
    bar = settings.trainer.enable_progress_bar
    return _terminal.progress(drawn=bar is not False) if is_first_rank() else nullcontext(silent)


def _validate(settings: Train, inputs: Inputs, previous: PreprocessedStore | None) -> Summary | None:
    """Predict the validation cases together with the other processes, and score them as rank 0."""
    folder, record = inputs.folder, inputs.record
    # Checked again, since another command may have replaced the arrays during training.
    arrays, before = PreprocessedStore(inputs.store.folder), previous and PreprocessedStore(previous.folder)
    check_arrays_of_run(folder, record, arrays.read_index(), inputs.preprocess, before)
    with _terminal.progress() if is_first_rank() else nullcontext(silent) as progress:
        failed = _predict_share(settings, inputs, previous, progress)
        team().announce(f"validated/{team().rank}", failed)
        if not is_first_rank():
            return None
        for rank in range(1, team().world_size):  # one with larger cases takes longer; nothing ends this wait
            failed |= team().hear(f"validated/{rank}")
        summary = evaluate_cases(
            folder.validation,
            inputs.references,
            record.dataset.labels,
            EvaluateSettings(scores=overlap_only(), partial=True),
            file_ending=record.dataset.label_ending,
            reader=record.plans.reader,
            output=folder.validation,
            progress=progress,
        )
    if failed:
        raise CaseErrors("some validation cases could not be predicted", list(failed.values()))
    return summary


def on_training_device(settings: Train) -> PredictSettings:
    """The settings of inference, in which ``device=auto`` is the training's device."""
    where = _devices(settings)
    if settings.inference.device != AUTO or where is None or where.own is None:
        return settings.inference
    return replace(settings.inference, device=str(where.own))


def _window_of_training(settings: Train) -> SlidingWindowSettings:
    """The settings of the sliding window, in which ``precision=auto`` is the training's precision."""
    window, where = settings.inference.window, _devices(settings)
    if window.precision != AUTO or where is None:
        return window
    return replace(window, precision=OF_TRAINING[where.precision])


def _devices(settings: Train) -> TrainingDevices | None:
    """The devices of the training; None if there are none such here. Then it says so itself, unless it is finished."""
    try:
        return training_devices(_settings.plain(settings.trainer))
    except SegflowError:
        return None


def _predict_share(
    settings: Train, inputs: Inputs, previous: PreprocessedStore | None, progress: Progress
) -> dict[str, str]:
    """Predict the validation cases of this process; id → message of those that failed."""
    rank, count = team().rank, team().world_size
    if rank >= len(inputs.record.val_cases):
        return {}
    both = settings.inference.probabilities or settings.save_probabilities
    report = predict_validation(
        inputs.folder,
        inputs.store,
        replace(on_training_device(settings), probabilities=both, part=f"{rank}/{count}"),
        previous_stage=previous,
        next_stages=inputs.next_stages,
        progress=progress,
        build=settings.network.build(),
    )
    return dict(report.failed)


def previous_stage(settings: Train, inputs: Inputs) -> PreprocessedStore | None:
    """Predictions of the previous stage's folds for their validation cases, complete for this fold."""
    record = inputs.record
    previous = record.plan.previous_stage
    if previous is None:
        return None
    plans = settings.paths.outputs / inputs.prepared.path.name / settings.plans
    run = Run.at(plans, previous, settings.previous_run_name or settings.run_name)

    def command(folds: Sequence[int]) -> str:
        words = ["-m", f"fold={','.join(map(str, folds))}"]
        values = {"configuration": previous, "plans": settings.plans, "run_name": run.name}
        return command_line("train", *words, **_datasets.as_settings(settings.dataset), **values)

    splits = split_dataset(inputs.prepared.path, inputs.store.case_ids(), settings.fold)
    return open_previous_stage(run.path, record, inputs.store_of(previous), inputs.store, splits, command)


def training_parts(settings: Train, score_volumes: VolumeScorer | None = None) -> TrainingParts:
    """Build the exchangeable parts of a training; ``score_volumes`` scores whole cases while it trains."""
    return TrainingParts(
        network=settings.network.build(),
        loss=settings.loss.build(),
        optimizer=settings.optimizer.build(),
        schedule=settings.schedule.build(),
        sampler=settings.sampling.build(),
        augmentation=settings.augmentation.build(),
        trainer=Part(_settings.plain(settings.trainer)).build(),
        loggers=[part.build() for part in settings.logger.values() if part],
        callbacks=[part.build() for part in settings.callbacks.values() if part],
        score_volumes=score_volumes,
    )


def _chosen(settings: Train) -> dict[str, Any]:
    """What the user chose, for the tables of loggers: options of parts, and settings of the command line."""
    options = _invocation.options()
    values = {group: options[group] for group in (*PARTS, "experiment") if group in options}
    known = flattened(_settings.plain(settings))
    typed = (override.lstrip("+~").partition("=")[0] for override in _invocation.overrides())
    return values | {key: known[key] for key in typed if key in known and key not in ("plans", "run_name")}


def _as_tags(summary: Summary, labels: Labels) -> dict[str, float]:
    dice = {f"{FINAL_DICE_OF}{labels.name_of(key)}": summary.mean[key]["Dice"] for key in summary.keys if key != 0}
    return {FINAL_DICE: summary.score, **dice}


def _write_configuration(inputs: Inputs) -> None:
    """Write ``.hydra/`` at the first start. From then on the folder belongs to one configuration."""
    if inputs.folder.record_file.is_file():
        return
    texts = {"config.yaml": dict(inputs.record.settings), "overrides.yaml": _invocation.overrides()}
    for name, values in texts.items():
        with written_whole(inputs.folder.path / HYDRA_FOLDER / name) as temporary:
            temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


@contextmanager
def _log_file(folder: Fold) -> Iterator[None]:
    """Copy all log messages to the fold's ``train.log``, errors with their traceback."""
    if not is_first_rank():
        yield
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(refuse_link(folder.log_file), encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    own = logging.getLogger("segflow")
    before = own.level
    if own.getEffectiveLevel() > logging.INFO:  # in a program that did not set up logging
        own.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        failure = team().failure
        if failure is not None:  # of another process
            handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, failure.text, (), None))
        elif isinstance(error, Exception):
            handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "failed", (), sys.exc_info()))
        raise
    finally:
        own.setLevel(before)
        logging.getLogger().removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """A log file that does not report a full disk for each line, since other writers report it."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()
