"""One label map from the probabilities of several models (recipe 13.1)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import CaseErrors, SegflowError
from segflow.core.geometry import Geometry
from segflow.core.labels import Labels, key_text
from segflow.core.wording import counted, some
from segflow.execution.progress import Progress, silent
from segflow.inference.case_pipeline import PredictReport, Steps, run_cases
from segflow.inference.ensemble_settings import EnsembleSettings
from segflow.inference.maps import ENDING, OUTPUTS_FILE, PROBABILITIES, probability_file, read_names
from segflow.storage.channel_names import channel_name
from segflow.storage.file_stamps import FileStamp, Origin
from segflow.storage.images import ImageIO, reader_by_name
from segflow.storage.json_files import read_json
from segflow.storage.listing import files_ending_in
from segflow.storage.predictions import DESCRIPTIONS, Predictions, Wanted
from segflow.storage.readers import shipped_reader

logger = logging.getLogger(__name__)

WAY = "ensemble"
VERSION = 1  # raise it when the same probabilities would give other label maps
ARGUMENTS_FILE = "ensemble.json"
SAVE_THEM = "Predict with inference.probabilities=true; for validation cases: segflow train … save_probabilities=true"


class StreamedDecision:
    """The label map of probabilities that are added one output at a time, so that only one is in memory.

    Args:
        labels: The label definition.
        shape: Voxels along z, y, x.
    """

    def __init__(self, labels: Labels, shape: Sequence[int]) -> None:
        self.label_map = np.zeros(tuple(shape), np.uint16)
        self._values = (labels.regions_class_order or ()) if labels.has_regions else labels.all_labels
        self._best = None if labels.has_regions else np.full(tuple(shape), -np.inf, np.float32)
        self._taken = 0

    def add(self, probability: np.ndarray) -> None:
        """Add the next output, float32 (Z, Y, X)."""
        chosen = probability > (0.5 if self._best is None else self._best)
        self.label_map[chosen] = self._values[self._taken]
        if self._best is not None:
            self._best[chosen] = probability[chosen]
        self._taken += 1


class StoredProbabilities:
    """The probabilities beside the label maps of a folder.

    Args:
        folder: Folder of the label maps.
        labels: The label definition that they must have.
        reader: The reader of the label maps, which also wrote the probabilities if it writes NIfTI.

    Raises:
        SegflowError: There are none, or they are of other labels.
    """

    def __init__(self, folder: Path, labels: Labels, reader: ImageIO) -> None:
        self.folder = folder
        self._reader = reader if ENDING in reader.endings else shipped_reader("SimpleITKIO")
        keys = labels.regions if labels.has_regions else labels.all_labels
        self.outputs = len(keys)
        meant = [text for _, text in read_names(folder, fix=SAVE_THEM).values()]
        if meant not in ([key_text(key) for key in keys], [str(key) for key in keys]):  # "(1,)" is an earlier "1"
            raise SegflowError(
                f"the probabilities in {folder} are of other labels, as {OUTPUTS_FILE} says",
                found=meant,
                expected=[key_text(k) for k in keys],
            )

    def file(self, case_id: str, output: int) -> Path:
        """File of one output of a case."""
        return probability_file(self.folder, case_id, output)

    def has(self, case_id: str) -> bool:
        """Whether all outputs of a case exist."""
        return all(self.file(case_id, output).is_file() for output in range(self.outputs))

    def require(self, case_id: str) -> None:
        """Refuse a case with a missing output.

        Raises:
            SegflowError: An output is missing. The error names the file.
        """
        for output in range(self.outputs):
            self._existing(case_id, output)

    def read(self, case_id: str, output: int) -> np.ndarray:
        """One output of a case, float32 (Z, Y, X).

        Raises:
            SegflowError: It is missing or unreadable.
        """
        image, _ = self._reader.read_image([self._existing(case_id, output)])
        probabilities: np.ndarray = image[0]
        return probabilities

    def _existing(self, case_id: str, output: int) -> Path:
        file = self.file(case_id, output)
        if not file.is_file():
            raise SegflowError(f"there is no {file}", case=case_id, fix=SAVE_THEM)
        return file


def weighted_mean(values: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Mean of float32 arrays of any shape, (Z, Y, X) here, summed in float32 in their order.

    Raises:
        SegflowError: They differ in shape.
    """
    shapes = {array.shape for array in values}
    if len(shapes) > 1:
        raise SegflowError("the members' probabilities differ in shape (z, y, x)", found=sorted(shapes))
    shares = np.full(len(values), 1.0) if weights is None else np.asarray(weights, dtype=np.float64)
    shares = (shares / shares.sum()).astype(np.float32)
    total: np.ndarray = values[0] * shares[0]
    for array, share in zip(values[1:], shares[1:], strict=True):
        total += array * share
    return total


def decide_case(
    members: Sequence[StoredProbabilities],
    case_id: str,
    labels: Labels,
    shape: Sequence[int],
    weights: Sequence[float] | None = None,
) -> np.ndarray:
    """The label map of an ensemble, uint16 (Z, Y, X) of this shape.

    Raises:
        SegflowError: A file is missing or unreadable, or of another shape.
    """
    decision = StreamedDecision(labels, shape)
    for output in range(members[0].outputs):
        values = weighted_mean([member.read(case_id, output) for member in members], weights)
        if values.shape != decision.label_map.shape:
            raise SegflowError(
                "probabilities and label map differ in shape (z, y, x)",
                case=case_id,
                found=values.shape,
                expected=decision.label_map.shape,
            )
        decision.add(values)
    return decision.label_map


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
    if settings.weights is not None and len(settings.weights) != len(members):
        raise SegflowError(
            "ensemble: one weight per member", found=settings.weights, expected=f"{len(members)} weights"
        )
    images = reader_by_name(reader)
    stored = [StoredProbabilities(folder, labels, images) for folder in members]
    chosen = _case_ids(stored, file_ending) if cases is None else list(cases)
    if not chosen:
        raise CaseErrors("there are no probabilities to average", [str(folder) for folder in members], SAVE_THEM)
    arguments = {"members": [str(folder.resolve()) for folder in members], "weights": settings.weights}
    work = _Ensemble(stored, labels, images, Predictions(output, file_ending), arguments, settings.weights)
    beside = {name: members[0] / name for name in DESCRIPTIONS if (members[0] / name).is_file()}
    done = work.predictions.prepare(
        {case_id: Wanted(work.origin(case_id)) for case_id in chosen},
        what="label maps",
        maker="ensemble",
        documents=(*beside, ARGUMENTS_FILE),
        resume=settings.resume,
        own=own,
    )
    work.predictions.write_document(ARGUMENTS_FILE, arguments, WAY)
    for name, file in beside.items():
        work.predictions.write_document(name, read_json(file), WAY)
    steps = Steps("ensemble", work.decide, lambda case_id, decided: decided, work.write, done.__contains__)
    return run_cases(steps, {case_id: case_id for case_id in chosen}, settings, progress)


@dataclass(frozen=True, slots=True)
class _Ensemble:
    """Members, and the folder for what they decide together."""

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
