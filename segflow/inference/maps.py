"""Maps beside a label map: probabilities, their entropy, and the disagreement of the folds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.errors import SegflowError
from segflow.core.labels import LabelKey, Labels, key_text
from segflow.core.names import shortened
from segflow.core.preprocessed_case import SpatialRecord
from segflow.preprocessing.restore import restore_probabilities
from segflow.storage.channel_names import channel_name
from segflow.storage.image_formats.contract import ImageIO
from segflow.storage.image_formats.turned_reader import TurnedReader
from segflow.storage.json_files import read_json_as, write_json
from segflow.storage.links import within
from segflow.storage.readers import shipped_reader

ENDING = ".nii.gz"
PROBABILITIES, ENTROPY, DISAGREEMENT = "probabilities", "entropy", "disagreement"
OUTPUTS_FILE = "outputs.json"


OutputNames = dict[str, list[str]]
"""Number of an output, as in its file's name → its name; and its label or region as text."""


def output_names(labels: Labels) -> OutputNames:
    """Names of the network's outputs."""
    keys: tuple[LabelKey, ...] = labels.regions if labels.has_regions else labels.all_labels
    return {f"{k:04d}": [labels.name_of(key), key_text(key)] for k, key in enumerate(keys)}


def read_names(folder: Path, fix: str = "Predict with inference.probabilities=true first.") -> OutputNames:
    """Read the names of the outputs whose probabilities lie beside label maps, in the order of the outputs.

    Args:
        folder: Folder of the label maps.
        fix: Advice if there are no probabilities.

    Raises:
        SegflowError: There are none, or the file with the names cannot be used.
    """

    def build(content: Mapping[str, Any]) -> OutputNames:
        return {number: [str(text) for text in _pair(names)] for number, names in sorted(content.items())}

    return read_json_as(folder / PROBABILITIES / OUTPUTS_FILE, build, fix)


def _pair(names: Any) -> Sequence[Any]:
    if not isinstance(names, list) or len(names) != 2:
        raise SegflowError("an output is not named", found=shortened(names), expected='"0001": ["liver", "1"]')
    return names


def probability_file(folder: Path, case_id: str, output: int) -> Path:
    """File of one output's probability for a case, for label maps in ``folder``."""
    return folder / PROBABILITIES / channel_name(case_id, output, ENDING)


class Wanted(Protocol):
    """Which maps to write."""

    probabilities: bool
    entropy: bool
    disagreement: bool


class Maps:
    """Maps that are written beside the label maps of a folder.

    They lie in subfolders, so that the folder itself holds only label maps: ``probabilities``, with a file for each
    output of the network, numbered like channels, and ``outputs.json`` with their names; ``entropy``; and
    ``disagreement``. All are NIfTI in the input's geometry.

    Args:
        plan: The configuration.
        labels: The label definition.
        reader: The reader of the images, which also writes the maps if it writes NIfTI.
        wanted: Which maps to write.
    """

    def __init__(self, plan: ConfigurationPlan, labels: Labels, reader: ImageIO, wanted: Wanted) -> None:
        self.plan = plan
        self.labels = labels
        self.wanted = wanted
        writes_nifti = ENDING in reader.endings
        self.writer = reader if writes_nifti else TurnedReader(shipped_reader("SimpleITKIO"), lambda _: None)

    @property
    def need_logits(self) -> bool:
        """Whether maps are made of the logits."""
        return self.wanted.probabilities or self.wanted.entropy

    def files(self, folder: Path, case_id: str) -> tuple[Path, ...]:
        """All files that are written for a case, for label maps in ``folder``."""
        files = []
        if self.wanted.probabilities:
            files += [probability_file(folder, case_id, k) for k in range(self.labels.num_outputs)]
        if self.wanted.entropy:
            files.append(folder / ENTROPY / f"{case_id}{ENDING}")
        if self.wanted.disagreement:
            files.append(folder / DISAGREEMENT / f"{case_id}{ENDING}")
        return tuple(files)

    def write_names(self, folder: Path) -> None:
        """Write the names of the outputs beside the probabilities. Call it once, before any case is written."""
        if self.wanted.probabilities:
            write_json(within(folder, PROBABILITIES) / OUTPUTS_FILE, output_names(self.labels))

    def write(
        self,
        folder: Path,
        case_id: str,
        label: np.ndarray,
        logits: Tensor | None,
        votes: Iterable[np.ndarray],
        spatial: SpatialRecord,
    ) -> None:
        """Write the maps of one case.

        Args:
            folder: Folder of the label maps.
            case_id: Name of the case.
            label: (Z, Y, X) in image space, from all folds together.
            logits: (K, Z, Y, X) in plan space; None if `need_logits` is false.
            votes: Label maps of the single folds, used only for the disagreement.
            spatial: How the case came to plan space.

        Raises:
            SegflowError: A file cannot be written.
        """
        if logits is not None and self.need_logits:
            undecided = Entropy(spatial.shape_original, self.labels) if self.wanted.entropy else None
            for k, values in enumerate(restore_probabilities(logits, spatial, self.plan, self.labels)):
                if self.wanted.probabilities:
                    self.writer.write_map(values, spatial.geometry, probability_file(folder, case_id, k))
                if undecided is not None:
                    undecided.add(values)
            if undecided is not None:
                self.writer.write_map(undecided.value(), spatial.geometry, folder / ENTROPY / f"{case_id}{ENDING}")
        if self.wanted.disagreement:
            values = disagreement(label, votes)
            self.writer.write_map(values, spatial.geometry, folder / DISAGREEMENT / f"{case_id}{ENDING}")


class Entropy:
    """Entropy of probabilities that are added one output at a time.

    It is Shannon's entropy divided by its largest value: 0 if one outcome is certain, 1 if all are equally likely. With
    regions, each output is a yes-or-no question of its own, and the result is the mean over the outputs.

    Args:
        shape: Voxels along z, y, x.
        labels: The label definition.
    """

    def __init__(self, shape: Sequence[int], labels: Labels) -> None:
        self._total = np.zeros(tuple(shape), np.float32)
        self._regions = labels.has_regions
        self._outputs = 0

    def add(self, probability: np.ndarray) -> None:
        """Add the next output, float32 (Z, Y, X)."""
        self._total += _surprise(probability)
        if self._regions:
            self._total += _surprise(1 - probability)
        self._outputs += 1

    def value(self) -> np.ndarray:
        """The entropy of all outputs so far, float32 (Z, Y, X)."""
        outcomes = 2 if self._regions else max(self._outputs, 2)
        return self._total / np.float32(math.log(outcomes) * (self._outputs if self._regions else 1))


def disagreement(label: np.ndarray, votes: Iterable[np.ndarray]) -> np.ndarray:
    """Share of the folds whose label differs from that of all folds together.

    Args:
        label: (Z, Y, X).
        votes: One (Z, Y, X) for each fold.

    Returns:
        float32 (Z, Y, X).
    """
    differing, count = np.zeros(label.shape, np.float32), 0
    for vote in votes:
        differing += vote != label
        count += 1
    return differing / np.float32(max(count, 1))


def _surprise(values: np.ndarray) -> np.ndarray:
    """-p log p, with 0 for p = 0."""
    result: np.ndarray = -values * np.log(np.maximum(values, np.finfo(np.float32).tiny))
    return result
