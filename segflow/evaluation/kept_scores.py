"""Scores of single cases, kept beside the summary's place until all parts are scored."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segflow.core.errors import UNUSABLE
from segflow.core.labels import key_from_text, key_text
from segflow.core.metrics import CaseMetrics
from segflow.evaluation.label_pairs import LabelPair, inputs_of
from segflow.evaluation.undeclared import Undeclared
from segflow.storage.file_stamps import FileStamp, Origin
from segflow.storage.json_files import read_json, write_json
from segflow.storage.stamps import STAMPS_FOLDER, StampedFolder

FOLDER = "scores"
VERSION = 1  # raise it when the same label maps and settings would give other scores

Scored = tuple[CaseMetrics, Undeclared]


@dataclass(frozen=True, slots=True)
class KeptScores:
    """A file for each scored case, with a stamp of the two label maps and the settings.

    Attributes:
        output: Folder of the summary.
        decisive: Plain JSON of everything that decides the scores beside the label maps.
    """

    output: Path
    decisive: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """The folder of the files. It is made only when scores are kept."""
        return self.output / STAMPS_FOLDER / FOLDER

    def read(self, pair: LabelPair) -> Scored | None:
        """The scores of a case; None if there are none of these label maps with these settings."""
        name = _name(pair)
        if not (self.path / name).is_file():
            return None
        if StampedFolder(self.path).why_stale(name, self._origin(pair)) is not None:
            return None
        try:
            content = read_json(self.path / name)
            metrics = {key_from_text(key): dict(scores) for key, scores in content["metrics"].items()}
            prediction, reference = (tuple(map(int, content["undeclared"][side])) for side in _SIDES)
        except UNUSABLE:
            return None
        scored = CaseMetrics(pair.case_id, metrics, str(pair.prediction), str(pair.reference))
        return scored, Undeclared(prediction, reference)

    def stamp(self, pair: LabelPair) -> dict[str, FileStamp]:
        """Stamps of the label maps of a case. Take them before they are read."""
        return self._origin(pair).stamp_inputs(unreadable_too=True)

    def write(self, pair: LabelPair, scored: Scored, inputs: Mapping[str, FileStamp]) -> None:
        """Keep the scores of a case.

        Args:
            pair: The case.
            scored: Its scores.
            inputs: See `stamp`.

        Raises:
            NoSpaceError: The disk is full or read-only.
            SegflowError: The folder cannot be written.
        """
        metrics, undeclared = scored
        content = {
            "metrics": {key_text(key): dict(scores) for key, scores in metrics.metrics.items()},
            "undeclared": {side: list(getattr(undeclared, side)) for side in _SIDES},
        }
        with StampedFolder(self.path).written(_name(pair), self._origin(pair), inputs) as place:
            write_json(place / _name(pair), content)

    def remove(self) -> None:
        """Delete all of them, since a summary has been made of them."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _origin(self, pair: LabelPair) -> Origin:
        return Origin("scores of a case", VERSION, self.decisive, inputs_of([pair]))


_SIDES = ("prediction", "reference")


def _name(pair: LabelPair) -> str:
    return f"{pair.case_id}.json"
