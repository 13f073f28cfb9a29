"""One label map from the probabilities of several models (recipe 13.1)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import CaseErrors
from segflow.core.geometry import Geometry
from segflow.core.labels import Labels
from segflow.core.wording import counted, some
from segflow.execution.machine import check_room
from segflow.execution.progress import Progress, silent
from segflow.inference.case_pipeline import PredictReport, Steps, run_cases
from segflow.inference.ensemble_settings import EnsembleSettings
from segflow.inference.maps import ENDING, PROBABILITIES
from segflow.inference.stored_probabilities import SAVE_THEM, StoredProbabilities, bytes_to_decide, decide_case
from segflow.storage.channel_names import channel_name
from segflow.storage.file_stamps import FileStamp, Origin
from segflow.storage.images import ImageIO, reader_by_name, voxels_of
from segflow.storage.json_files import read_json
from segflow.storage.label_mapping import in_classes
from segflow.storage.listing import files_ending_in
from segflow.storage.predictions import DESCRIPTIONS, Predictions, Wanted

logger = logging.getLogger(__name__)

WAY = "ensemble"
VERSION = 1  # raise it when the same probabilities would give other label maps
ARGUMENTS_FILE = "ensemble.json"


def ensemble_cases(
    members: Sequence[Path],
    output: Path,
    labels: Labels,
    settings: EnsembleSettings | None = None,
    *,
    file_ending: str,
    reader: str,
    cases: Sequence[str] | None = None,
    own: bool = False,
    progress: Progress = silent,
) -> PredictReport:
    """Average the probabilities of prediction folders, and write the resulting label maps.

    The output folder also gets the first member's ``dataset.json`` and ``plans.json``, and ``ensemble.json`` with the
    arguments.

    Args:
        members: Folders of label maps with ``probabilities`` beside them, as written by ``segflow predict``.
        output: Folder for the label maps.
        labels: The label definition.
        settings: See `EnsembleSettings`.
        file_ending: Ending of the label maps, with its dot.
        reader: Name of their reader.
        cases: Ids of the cases; None takes all cases of any member.
        own: Only segflow writes into the output folder, so label maps of another ensemble are replaced.
        progress: Called after each case.

    Returns:
        The result. A case that a member lacks fails; the others are done.

    Raises:
        SegflowError: A member has no probabilities, weights do not fit, or the output folder holds another ensemble or
            files that segflow did not write.
    """
    settings = settings or EnsembleSettings()
    settings.check_weights(len(members))
    images = in_classes(reader_by_name(reader), labels)
    stored = [StoredProbabilities(folder, labels, images) for folder in members]
    chosen = _case_ids(stored, file_ending) if cases is None else list(cases)
    if not chosen:
        raise CaseErrors("there are no probabilities to average", [str(folder) for folder in members], SAVE_THEM)
    arguments = {"members": [str(folder.resolve()) for folder in members], "weights": settings.weights}
    work = _Ensemble(stored, labels, images, Predictions(output, file_ending, own=own), arguments, settings.weights)
    beside = {name: members[0] / name for name in DESCRIPTIONS if (members[0] / name).is_file()}
    done = work.predictions.prepare(
        {case_id: Wanted(work.origin(case_id)) for case_id in chosen},
        what="label maps",
        maker="ensemble",
        documents=(*beside, ARGUMENTS_FILE),
        resume=settings.resume,
    )
    work.predictions.write_document(ARGUMENTS_FILE, arguments, WAY)
    for name, file in beside.items():
        work.predictions.write_document(name, read_json(file), WAY)
    steps = Steps("ensemble", work.decide, lambda case_id, decided: decided, work.write, done.__contains__)
    return run_cases(steps, {case_id: case_id for case_id in chosen}, settings, progress)


@dataclass(frozen=True, slots=True)
class _Ensemble:
    """The members of an ensemble, and the folder of its label maps."""

    members: Sequence[StoredProbabilities]
    labels: Labels
    images: ImageIO
    predictions: Predictions
    arguments: Mapping[str, Any]
    weights: Sequence[float] | None

    def origin(self, case_id: str) -> Origin:
        return ensemble_origin(self.members, case_id, self._pattern(case_id), self.labels, self.arguments)

    def decide(self, case_id: str) -> _Decided:
        for member in self.members:
            member.require(case_id)
        inputs = self.origin(case_id).stamp_inputs()
        voxels = voxels_of(self._pattern(case_id), self.images)
        wanted = bytes_to_decide(len(self.members), voxels)
        check_room(wanted, "this case", found=f"{len(self.members)} members of {voxels:,} voxels", case=case_id)
        label, geometry = self.images.read_label(self._pattern(case_id))
        decided = decide_case(self.members, case_id, self.labels, label.shape, self.weights)
        return _Decided(decided, geometry, inputs)

    def write(self, case_id: str, decided: _Decided) -> None:
        with self.predictions.written(case_id, self.origin(case_id), decided.inputs) as place:
            self.images.write_label(decided.label_map, decided.geometry, place / self.predictions.file(case_id).name)

    def _pattern(self, case_id: str) -> Path:
        """The first member's label map, which gives the geometry."""
        return self.members[0].folder / self.predictions.file(case_id).name


@dataclass(frozen=True, slots=True)
class _Decided:
    """A label map to be written, with stamps of its input files from before they were read."""

    label_map: np.ndarray
    geometry: Geometry
    inputs: dict[str, FileStamp]


def ensemble_origin(
    members: Sequence[StoredProbabilities],
    case_id: str,
    label_map: Path,
    labels: Labels,
    settings: Mapping[str, Any] | None = None,
) -> Origin:
    """Origin of an ensemble's label map, for its stamp.

    Args:
        members: Probabilities of the members.
        case_id: The case.
        label_map: A member's label map, which gives the geometry.
        labels: The label definition.
        settings: Plain JSON of everything else that decides the label map.
    """
    probabilities = {
        f"probability_{k}_{output}": member.file(case_id, output)
        for k, member in enumerate(members)
        for output in range(member.outputs)
    }
    decisive = {**(settings or {}), "labels": labels.to_json(), "regions_class_order": labels.regions_class_order}
    return Origin(WAY, VERSION, decisive, {**probabilities, "label_map": label_map})


def _case_ids(members: Sequence[StoredProbabilities], file_ending: str) -> list[str]:
    """All cases for which a member has probabilities, sorted. Label maps without probabilities are logged."""
    ending = channel_name("", 0, ENDING)
    names: set[str] = set()
    for member in members:
        files = files_ending_in(member.folder / PROBABILITIES, ENDING)
        names.update(name.removesuffix(ending) for name in files if name.endswith(ending))
    for folder in (member.folder for member in members):
        bare = [name.removesuffix(file_ending) for name in files_ending_in(folder, file_ending)]
        bare = [name for name in bare if name not in names]
        if bare:
            verb = "has no probabilities and is" if len(bare) == 1 else "have no probabilities and are"
            text = f"{folder}: {counted(len(bare), 'label map')} {verb} not averaged: {some(bare)}"
            logger.warning("%s. %s", text, SAVE_THEM)
    return sorted(names)
