"""Input of a cascade: label maps of the previous stage, each predicted by a fold that was not trained on the case."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.preprocessed_case import PreprocessedCase, SpatialRecord
from segflow.core.run_record import RunRecord
from segflow.core.splits import Split
from segflow.core.wording import some
from segflow.inference.label_builder import LabelBuilder
from segflow.inference.origins import WINDOW_SETTINGS
from segflow.inference.predictor import Predictor
from segflow.preprocessing.provenance import choices_of, differing_choices
from segflow.preprocessing.resampling import interpolation_of
from segflow.preprocessing.restore import Restorer, label_type
from segflow.storage.case_facts import VERSION as PREPROCESSING
from segflow.storage.file_stamps import FileStamp, Origin, is_same_file, stamp_file
from segflow.storage.folds import Fold
from segflow.storage.preprocessed_store import PREDICTED_BY, PreprocessedStore
from segflow.storage.runs import Run

WAY = "next stage"
VERSION = 1  # raise it when the same weights, arrays and settings would give other label maps
WEIGHTS_FILE = "weights_file"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NextStage:
    """Label maps of one fold for one cascade.

    Attributes:
        name: The cascade's configuration.
        record: Record of the fold.
        grids: The cascade's preprocessed cases.
        weights: Stamp of the fold's weights.
        handed: Folder of the label maps.
        taken: Cases to write: those of the cascade that the fold was not trained on.
    """

    name: str
    record: RunRecord
    grids: PreprocessedStore
    weights: FileStamp
    handed: PreprocessedStore
    taken: frozenset[str]

    @classmethod
    def of(cls, folder: Fold, record: RunRecord, name: str, grids: PreprocessedStore, weights: FileStamp) -> NextStage:
        """Open the folder, and log validation cases that are left out."""
        present, seen = set(grids.case_ids()), set(record.train_cases)
        absent = [case_id for case_id in record.val_cases if case_id not in present]
        if absent:
            logger.warning(
                "%d cases are not preprocessed for '%s' and are no input of it: %s", len(absent), name, some(absent)
            )
        own = [case_id for case_id in record.val_cases if case_id in seen]
        if own:
            logger.warning(
                "fold %s was trained on %d of its validation cases: they are no input of '%s', which takes what the "
                "other folds predict",
                record.fold,
                len(own),
                name,
            )
        taken = frozenset(present.intersection(record.val_cases) - seen)
        handed = PreprocessedStore(Run.of(folder.path).handed_on(name))
        return cls(name, record, grids, weights, handed, taken)

    def is_done(self, case_id: str, origin: Origin) -> bool:
        """Whether nothing must be made for a case.

        Args:
            case_id: The case.
            origin: Origin of the stage's own label map.
        """
        if case_id not in self.taken:
            return True
        try:
            stamp = self.handed.open(case_id).properties.get(PREDICTED_BY)
        except SegflowError:
            return False
        is_current = isinstance(stamp, Mapping) and self._origin(case_id, origin).difference(stamp) is None
        return is_current and self.handed.is_whole(case_id)

    def builder(self, case_id: str, spatial: SpatialRecord, predictor: Predictor) -> LabelBuilder | None:
        """What decides the label map of a case on the cascade's grid. Both grids span the same crop of the image.

        Args:
            case_id: The case.
            spatial: Record of the stage's own grid.
            predictor: The predictor of the logits.

        Returns:
            None if the case is not in ``taken``.
        """
        if case_id not in self.taken:
            return None
        grid = self.grids.open(case_id).spatial
        resampling = predictor.plan.resampling_probabilities
        interpolation = interpolation_of(resampling, spatial.spacing_plan, grid.spacing_plan)
        return LabelBuilder(
            lambda: Restorer(spatial.shape_plan, grid.shape_plan, interpolation, predictor.labels),
            np.zeros(grid.shape_plan, label_type(predictor.labels)),
        )

    def write(self, case_id: str, origin: Origin, inputs: Mapping[str, FileStamp], label: np.ndarray) -> None:
        """Write the label map of a case with its origin.

        Args:
            case_id: The case.
            origin: Origin of the stage's own label map.
            inputs: Stamps of the origin's files, taken before they were read.
            label: (Z, Y, X) on the cascade's grid, see `builder`.
        """
        own = self._origin(case_id, origin)
        stamps = {**inputs, "grid": stamp_file(own.inputs["grid"])}
        grid = self.grids.open(case_id).spatial
        case = PreprocessedCase(case_id, np.empty((0, *grid.shape_plan), np.float32), label.astype(np.int16), grid)
        stamp = {
            "way": own.way,
            "version": own.version,
            "settings": dict(own.settings),
            "inputs": stamps,
            WEIGHTS_FILE: dict(self.weights),  # so that a cascade can recognise the weights without reading them
        }
        patch_size = self.record.plans.configuration(self.name).patch_size
        self.handed.write(case, patch_size, {PREDICTED_BY: stamp})

    def _origin(self, case_id: str, origin: Origin) -> Origin:
        settings = {**origin.settings, "fold": self.record.fold}
        return Origin(WAY, VERSION, settings, {**origin.inputs, "grid": self.grids.properties_file(case_id)})


def open_previous_stage(
    run: Path,
    record: RunRecord,
    arrays: PreprocessedStore,
    grids: PreprocessedStore,
    splits: Sequence[Split],
    train: Callable[[Sequence[int]], str],
) -> PreprocessedStore:
    """The label maps of a cascade's previous stage, each predicted by a fold that did not see its case.

    All must come from finished folds of these splits and plans, from the present weights and arrays, and with the same
    settings of inference. That also holds for fold ``all`` of a cascade: it trains on predictions of the previous
    stage's folds, as in nnU-Net.

    Args:
        run: The previous stage's run, above its folds.
        record: Record of the cascade to train.
        arrays: The previous stage's preprocessed cases.
        grids: The cascade's preprocessed cases.
        splits: All folds of the dataset.
        train: Makes the command line that trains given folds of the previous stage.

    Raises:
        SegflowError: Some are missing or cannot be used. The error says why, and names the folds to train.
    """
    previous = str(record.plan.previous_stage)
    handed = PreprocessedStore(Run(run).handed_on(record.configuration))
    check = _Inputs(Run(run), record, arrays, grids, splits, handed)
    cases = sorted({*record.train_cases, *record.val_cases})
    problems = {case_id: why for case_id in cases if (why := check.problem(case_id)) is not None}
    if not problems and len(check.settings) > 1:
        problems = dict.fromkeys(cases, "predicted with different settings of the inference")
    if problems:
        folds = [k for k, split in enumerate(splits) if set(split.val) & problems.keys()]
        reasons = dict.fromkeys(problems.values())
        listed = [f"{some([case for case, w in problems.items() if w == why])} {why}" for why in reasons]
        raise SegflowError(
            f"'{record.configuration}' takes predictions of '{previous}' as input, each by the fold that was not "
            f"trained on the case; {len(problems)} of {len(cases)} cannot be used",
            found="; ".join(listed),
            fix=f"Train these folds, or start them again to predict what is missing: {train(folds)}"
            if folds
            else "Divide the dataset into folds first: fold.folds=2",
        )
    if check.unknown:
        logger.warning(
            "%d predictions of '%s' do not say what made them: taken as they are. Anew: %s",
            len(check.unknown),
            previous,
            train(range(len(splits))),
        )
    return handed


@dataclass(slots=True)
class _Inputs:
    """Checks each input of a cascade, and once each fold that made some."""

    run: Run
    record: RunRecord
    arrays: PreprocessedStore
    grids: PreprocessedStore
    splits: Sequence[Split]
    handed: PreprocessedStore
    settings: set[str] = field(default_factory=set)
    unknown: list[str] = field(default_factory=list)
    _folds: dict[str, str | RunRecord] = field(default_factory=dict)
    _weights: dict[tuple[str, str, str], bool] = field(default_factory=dict)

    def problem(self, case_id: str) -> str | None:
        """Why the input of a case cannot be used; None if it can."""
        if not self.handed.properties_file(case_id).is_file():
            return "missing"
        stored = self.handed.open(case_id)
        if stored.shape != self.grids.open(case_id).shape:
            return "on another grid than the cascade's arrays"
        stamp = stored.properties.get(PREDICTED_BY)
        if not isinstance(stamp, Mapping):
            if self.run.fold("all").has_weights():
                return "of an unknown fold: it may be fold all, which was trained on them"
            self.unknown.append(case_id)
            return None
        try:
            return self._problem_of(case_id, stamp)
        except (KeyError, TypeError, AttributeError):
            return "with a stamp that cannot be read"

    def _problem_of(self, case_id: str, stamp: Mapping[str, Any]) -> str | None:
        settings, inputs, name = stamp["settings"], stamp["inputs"], str(stamp["settings"]["fold"])
        if name not in self._folds:
            self._folds[name] = self._look_at(name)
        fold = self._folds[name]
        if isinstance(fold, str):
            return fold
        if case_id in fold.train_cases or case_id not in fold.val_cases:
            return f"of fold {name}, which was trained on them"
        checkpoint = str(settings["checkpoint"])
        key = (name, checkpoint, str(settings["weights"]))
        if key not in self._weights:
            file = self.run.fold(name).checkpoint(checkpoint)
            is_named = stamp[WEIGHTS_FILE]["digest"] == settings["weights"]
            self._weights[key] = is_named and is_same_file(file, stamp[WEIGHTS_FILE])
        if not self._weights[key]:
            return f"of other weights of fold {name} than are there now"
        for role, store in (("arrays", self.arrays), ("grid", self.grids)):
            if not is_same_file(store.properties_file(case_id), inputs[role]):
                return "of arrays that were made anew since"
        self.settings.add(repr([settings.get(key) for key in ("checkpoint", *WINDOW_SETTINGS)]))
        return None

    def _look_at(self, name: str) -> str | RunRecord:
        """The record of a fold of the previous stage, or why its predictions cannot be used."""
        if not name.isdecimal():
            return f"of fold {name[:20]}, which was trained on them"
        folder = self.run.fold(int(name))
        if not folder.is_finished():
            return f"of fold {name}, which is not there, or not trained to its end"
        fold = folder.read_record()
        number = int(name)
        split = self.splits[number] if number < len(self.splits) else Split((), ())
        if set(fold.train_cases) != set(split.train) or set(fold.val_cases) != set(split.val):
            return f"of fold {name} of other splits"
        plans, stage = self.record.plans, str(self.record.plan.previous_stage)
        wanted = choices_of(plans, plans.configuration(stage), self.record.dataset.labels)
        known = choices_of(fold.plans, fold.plan, fold.dataset.labels)
        if fold.configuration != stage or differing_choices(known, wanted) not in ([], [PREPROCESSING]):
            return f"of fold {name} of other plans"
        return fold
