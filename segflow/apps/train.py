"""``segflow train``: one fold, from preprocessed arrays to scores of its validation cases."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from segflow.apps import _datasets, _edge, _processes, _sources, _terminal, evaluate
from segflow.core.command_line import command_line
from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.labels import Labels
from segflow.core.metrics import Summary
from segflow.core.plans import Plans
from segflow.core.run_record import RunRecord
from segflow.core.splits import Split
from segflow.evaluation.evaluate_cases import evaluate_cases
from segflow.evaluation.evaluate_settings import EvaluateSettings, overlap_only
from segflow.inference.next_stage import open_previous_stage
from segflow.inference.predict_settings import PredictSettings
from segflow.inference.predict_validation import predict_validation
from segflow.inference.score_volumes import volume_scorer
from segflow.network.cpu.allocation import tune_cpu
from segflow.planning.override import override_configuration
from segflow.planning.split_dataset import read_fold, split_dataset
from segflow.storage.folds import HYDRA_FOLDER, Fold
from segflow.storage.json_files import read_json_as, written_whole
from segflow.storage.links import refuse_link
from segflow.storage.preprocessed_store import PreprocessedStore
from segflow.storage.raw_dataset import read_dataset_json
from segflow.training.claim_folder import check_arrays_of_run, release_folder
from segflow.training.protocols import TrainingParts, TrainResult
from segflow.training.train_fold import train_fold
from segflow.training.training_settings import TrainingSettings

logger = logging.getLogger(__name__)

SHIPPED_NETWORK = "segflow.network.build.build_network"
"""Prediction builds it unless told otherwise."""


def run(config: DictConfig) -> None:
    """Train one fold, and print the scores of its validation cases."""
    if _edge.is_sweep() and config.trainer.devices not in (1, "1"):
        _processes.run_alone("train")  # several ranks start this command line again: it must not be the sweep's
        return
    _datasets.announce(config, "train")
    result, summary, labels = train(config)
    if rank_zero_only.rank != 0:
        return
    if summary is not None:
        evaluate.show(summary, labels, f"Validation cases of {result.folder}")
    if not result.has_weights:
        _terminal.say(f"Trained {result.epochs} epochs and kept no weights. Figures lie in {result.folder}.")
        return
    if not result.finished:
        _terminal.say(f"Stopped after {result.epochs} epochs. The same command goes on.")
    _terminal.say(f"The run lies in {result.folder}. Next: {_predict_command(config, result.folder)}")


def _predict_command(config: DictConfig, folder: Path) -> str:
    """What to type to predict, with the network where it is one of the user's own."""
    own = config.network.get("_target_") != SHIPPED_NETWORK
    words = [*_edge.config_flags(), *(o for o in _edge.task_overrides() if o.startswith("network"))] if own else []
    return command_line("predict", *words, model=folder, input="DIR", output="DIR")


def train(config: DictConfig) -> tuple[TrainResult, Summary | None, Labels]:
    """Train the fold that a composed configuration describes, then predict and score its validation cases.

    Returns:
        How the training ended; the scores, None where there are none; and what is scored.
    """
    inputs = _read_inputs(config)
    settings = _edge.read(TrainingSettings, config.training)
    tune_cpu()
    if rank_zero_only.rank != 0:  # one process tells
        logging.getLogger("segflow").setLevel(logging.ERROR)
    alone = inputs.folder.locked() if rank_zero_only.rank == 0 else nullcontext()
    with alone, _log_file(inputs.folder):
        if rank_zero_only.rank == 0:
            inputs.check_sources(config)
            release_folder(inputs.folder)
            _write_configuration(inputs.folder, config)
        result = train_fold(
            inputs.folder,
            inputs.record,
            inputs.store,
            parts(config, inputs),
            settings,
            previous_stage=inputs.previous_stage,
            preprocess=inputs.preprocess,
        )
        wanted = config.validation and result.finished and result.has_weights and rank_zero_only.rank == 0
        summary = _validate(config, inputs) if wanted and inputs.record.val_cases else None
    return result, summary, inputs.record.dataset.labels


def _validate(config: DictConfig, inputs: Inputs) -> Summary:
    folder, record = inputs.folder, inputs.record
    settings = _edge.read(PredictSettings, config.inference)
    settings.probabilities = settings.probabilities or bool(config.save_probabilities)
    # Again: another command may have replaced the arrays while this one trained.
    before = inputs.previous_stage and PreprocessedStore(inputs.previous_stage.folder)
    check_arrays_of_run(folder, record, inputs.store, inputs.preprocess, before)
    with _terminal.progress() as progress:
        report = predict_validation(
            folder,
            inputs.store,
            settings,
            previous_stage=inputs.previous_stage,
            next_stages=inputs.next_stages,
            progress=progress,
            build=_edge.build(config.network),
        )
        summary = evaluate_cases(
            folder.validation,
            inputs.references,
            record.dataset.labels,
            EvaluateSettings(scores=overlap_only(), partial=True),
            file_ending=record.dataset.file_ending,
            reader=record.plans.reader,
            output=folder.validation,
            progress=progress,
        )
    if report.failed:
        raise CaseErrors("some validation cases could not be predicted", list(report.failed.values()))
    return summary


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a training starts from.

    Attributes:
        prepared: Folder of the plans and arrays.
        record: What is to be trained.
        folder: Where the run goes.
        previous_stage: Label maps that the previous stage predicted on this configuration's grid; for a cascade.
        preprocess: The command that makes the arrays.
    """

    prepared: Path
    record: RunRecord
    folder: Fold
    previous_stage: PreprocessedStore | None
    preprocess: str

    def check_sources(self, config: DictConfig) -> None:
        """See `_sources.check_sources`."""
        paths = _edge.read(_datasets.PathSettings, config.paths)
        dataset = _edge.read(_datasets.DatasetSettings, config.dataset)
        _sources.check_sources(self.record, self.prepared, self.references, dataset, paths, self.preprocess)

    @property
    def store(self) -> PreprocessedStore:
        """The preprocessed cases."""
        return PreprocessedStore(self.prepared / self.record.plan.data_identifier)

    @property
    def references(self) -> Path:
        """Folder of the reference label maps."""
        return self.prepared / "gt_segmentations"

    @property
    def next_stages(self) -> dict[str, PreprocessedStore]:
        """Preprocessed cases of the configurations that build on this one, as far as there are any."""
        plans = self.record.plans
        stores = {
            name: PreprocessedStore(self.prepared / plans.configuration(name).data_identifier)
            for name in self.record.plan.next_stages
        }
        return {name: store for name, store in stores.items() if store.folder.is_dir()}


def _read_inputs(config: DictConfig) -> Inputs:
    paths = _edge.read(_datasets.PathSettings, config.paths)
    dataset = _edge.read(_datasets.DatasetSettings, config.dataset)
    fold = _edge.read(_datasets.FoldSettings, config.fold)
    name = _datasets.folder_name(dataset, paths)
    prepared = Path(paths.preprocessed).expanduser() / name
    same = _datasets.as_settings(dataset)
    plan_first = f"Plan and preprocess first: {command_line('plan', **same)}; {command_line('preprocess', **same)}"
    description = read_dataset_json(prepared / "dataset.json", name, plan_first)
    plans = read_json_as(prepared / f"{config.plans}.json", Plans.from_json, fix=plan_first)
    plans = override_configuration(
        plans,
        config.configuration.name,
        patch_size=config.configuration.patch_size,
        batch_size=config.configuration.batch_size,
        norm=config.network.get("norm"),  # a setting of the network that prediction must know of
    )
    configuration = str(config.configuration.name)
    preprocess = command_line("preprocess", **same, plans=str(config.plans), configurations=[configuration])
    cases = PreprocessedStore(prepared / plans.configuration(config.configuration.name).data_identifier).case_ids()
    if not cases:
        raise SegflowError(
            f"'{config.configuration.name}' of {name} is not preprocessed",
            fix=f"Run: {preprocess}",
        )
    split = read_fold(prepared, cases, fold.index, fold)
    record = RunRecord(
        dataset=description,
        plans=plans,
        configuration=config.configuration.name,
        fold=fold.index,
        train_cases=split.train,
        val_cases=split.val,
        mirror_axes=(),  # the augmentation says them when training starts
        settings=_edge.plain(config),
    )
    outputs = Path(paths.outputs).expanduser() / name / str(config.plans)
    folder = Fold(outputs / config.configuration.name / config.run_name / f"fold_{fold.index}")
    splits = split_dataset(prepared, cases, fold) if record.plan.previous_stage else []
    previous = _previous_stage(record, prepared, splits, outputs, config)
    return Inputs(prepared, record, folder, previous, preprocess)


def _previous_stage(
    record: RunRecord, prepared: Path, splits: Sequence[Split], outputs: Path, config: DictConfig
) -> PreprocessedStore | None:
    """What the previous stage's folds predicted of their validation cases, complete for this fold."""
    previous = record.plan.previous_stage
    if previous is None:
        return None
    run = outputs / previous / (config.previous_run_name or config.run_name)
    dataset = _datasets.as_settings(_edge.read(_datasets.DatasetSettings, config.dataset))

    def command(folds: Sequence[int]) -> str:
        words = ["-m", f"fold={','.join(map(str, folds))}"]
        settings = {"configuration": previous, "plans": str(config.plans), "run_name": run.name}
        return command_line("train", *words, **dataset, **settings)

    arrays = PreprocessedStore(prepared / record.plans.configuration(previous).data_identifier)
    grids = PreprocessedStore(prepared / record.plan.data_identifier)
    return open_previous_stage(run, record, arrays, grids, splits, command)


def parts(config: DictConfig, inputs: Inputs | None = None) -> TrainingParts:
    """Build the exchangeable parts of a training from their config groups."""
    scorer = None
    if inputs is not None:
        window = _edge.read(PredictSettings, config.inference).window
        scorer = volume_scorer(
            inputs.record, inputs.store, inputs.references, window, previous_stage=inputs.previous_stage
        )
    return TrainingParts(
        network=_edge.build(config.network),
        loss=_edge.build(config.loss),
        optimizer=_edge.build(config.optimizer),
        schedule=_edge.build(config.schedule),
        sampler=_edge.build(config.sampling),
        augmentation=_edge.build(config.augmentation),
        trainer=_edge.build(config.trainer),
        loggers=[_edge.build(node) for node in config.logger.values()],
        callbacks=[_edge.build(node) for node in config.callbacks.values()],
        score_volumes=scorer,
    )


def _write_configuration(folder: Fold, config: DictConfig) -> None:
    """``.hydra/`` of the first start; from then on a run's folder belongs to one configuration."""
    if folder.record_file.is_file():
        return
    texts: dict[str, Any] = {"config.yaml": _edge.yaml_text(config), "overrides.yaml": _edge.overrides_text()}
    for name, text in texts.items():
        with written_whole(folder.path / HYDRA_FOLDER / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


@contextmanager
def _log_file(folder: Fold) -> Iterator[None]:
    """Everything that is logged goes to the run's ``train.log`` too, an error with its traceback."""
    if rank_zero_only.rank != 0:
        yield
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(refuse_link(folder.log_file), encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    except Exception:
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "failed", (), _edge.exception()))
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


class _LogFile(logging.FileHandler):
    """Says nothing of a full disk, once for each line: what matters is written elsewhere too, and speaks then."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()
