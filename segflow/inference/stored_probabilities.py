"""Probabilities stored beside label maps, and one label map from those of several models (recipe 13.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels, key_text
from segflow.inference.maps import ENDING, OUTPUTS_FILE, probability_file, read_names
from segflow.storage.images import ImageIO
from segflow.storage.readers import shipped_reader

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


def bytes_to_decide(members: int, voxels: int) -> int:
    """Memory in bytes to decide a case: an output of each member, their mean, the decision, a label map as pattern."""
    return (4 * members + 26) * voxels


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
