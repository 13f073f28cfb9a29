"""The input of a training: plans, arrays, the fold's cases, and the fold's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segflow.apps import _datasets, _settings
from segflow.apps._next import SHIPPED_NETWORK
from segflow.apps._read_settings import nearest, read
from segflow.core.command_line import command_line
from segflow.core.errors import SegflowError
from segflow.core.run_record import RunRecord
from segflow.planning.override import override_configuration
from segflow.planning.planner_settings import PlannerSettings
from segflow.planning.split_dataset import read_fold
from segflow.storage.folds import Fold
from segflow.storage.prepared_dataset import PreparedDataset
from segflow.storage.runs import Run
from segflow.training.tags import possible_tags

if TYPE_CHECKING:
    from segflow.apps.train import Train
    from segflow.storage.preprocessed_store import PreprocessedStore


@dataclass(frozen=True, slots=True)
class Inputs:
    """The input of a training.

    Attributes:
        prepared: The plans and arrays.
        record: Record of the fold to train.
        folder: The fold's folder.
        preprocess: The command that makes the arrays.
        store: The preprocessed cases, as they are at the start.
    """

    prepared: PreparedDataset
    record: RunRecord
    folder: Fold
    preprocess: str
    store: PreprocessedStore

    def store_of(self, configuration: str) -> PreprocessedStore:
        """The preprocessed cases of another configuration of the plans."""
        return self.prepared.arrays(self.record.plans.configuration(configuration))

    @property
    def references(self) -> Path:
        """Folder of the reference label maps."""
        return self.prepared.references

    @property
    def next_stages(self) -> dict[str, PreprocessedStore]:
        """Preprocessed cases of the cascades that build on this configuration, if they exist."""
        stores = {name: self.store_of(name) for name in self.record.plan.next_stages}
        return {name: store for name, store in stores.items() if store.folder.is_dir()}


def read_inputs(settings: Train) -> Inputs:
    """Read the input of a training from its settings.

    Raises:
        SegflowError: Plans or arrays are missing or do not fit the settings. The error says which command makes them.
    """
    from segflow.apps.train import Train

    paths, dataset, fold = settings.paths, settings.dataset, settings.fold
    if isinstance(fold.index, list):
        several = ",".join(map(str, fold.index))
        raise SegflowError(
            "one fold is trained at a time", found=f"fold.index={fold.index}", fix=f"For all of them: -m fold={several}"
        )
    name, configuration = _datasets.folder_name(dataset, paths), str(settings.configuration.name)
    prepared = PreparedDataset(paths.preprocessed / name)
    same = _datasets.as_settings(dataset)
    plan_first = f"Plan and preprocess first: {command_line('plan', **same)}; {command_line('preprocess', **same)}"
    description = prepared.read_description(plan_first)
    plans = override_configuration(
        prepared.read_plans(settings.plans, plan_first),
        configuration,
        patch_size=settings.configuration.patch_size,
        batch_size=settings.configuration.batch_size,
        **_of_network(settings),
    )
    preprocess = command_line("preprocess", **same, plans=settings.plans, configurations=[configuration])
    store = prepared.arrays(plans.configuration(configuration)).read_index()
    cases = store.case_ids()
    if not cases:
        raise SegflowError(f"'{configuration}' of {name} is not preprocessed", fix=f"Run: {preprocess}")
    split = read_fold(prepared.path, cases, fold.index, fold)
    record = RunRecord(
        dataset=description,
        plans=plans,
        configuration=configuration,
        fold=fold.index,
        train_cases=split.train,
        val_cases=split.val,
        mirror_axes=(),  # training takes them from the augmentation
        settings=_settings.plain(settings, Train),
        images=prepared.training_images(),
    )
    _check_objective(settings, record)
    run = Run.at(paths.outputs / name / settings.plans, configuration, settings.run_name)
    return Inputs(prepared, record, run.fold(fold.index), preprocess, store)


def _of_network(settings: Train) -> dict[str, Any]:
    """Settings of the network that prediction needs, so that the plans of the run must have them."""
    options = settings.network.settings
    planner = options.get("planner") if settings.network.target == SHIPPED_NETWORK else None
    network = None if planner is None else read(PlannerSettings, planner, "network.planner.")
    return {"norm": options.get("norm"), "network": network}


def _check_objective(settings: Train, record: RunRecord) -> None:
    """Refuse an objective that nothing can log. What callbacks of a user's own log is seen in the first epoch."""
    name, trainer = settings.objective, settings.trainer
    validation = bool(record.val_cases) and trainer.limit_val_batches != 0
    known = possible_tags(record.dataset.labels, validation=validation, volumes=bool(settings.training.volume_every))
    if name is not None and name not in known and not any(settings.callbacks.values()):
        raise SegflowError(
            f"objective={name} is no value that this training logs",
            expected=", ".join(known),
            fix=nearest(name, known) or "Without objective= it is the mean Dice of the validation cases.",
        )
