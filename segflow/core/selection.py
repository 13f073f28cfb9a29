"""Configurations and ensembles, ranked by their cross-validation: the content of ``selection.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.labels import LabelKey, key_from_text, key_text
from segflow.core.plain_json import record_from


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration, or an ensemble of several.

    Attributes:
        name: Name in tables.
        runs: Folders of the runs that predict together.
        folds: Folds of each run.
        dice: Mean foreground Dice over the cases that all candidates share.
        dice_per_label: Label or region → mean Dice.
        behind: How much higher the best candidate's Dice is; 0 for the best.
        behind_low, behind_high: The interval of that difference by paired bootstrap over the cases; NaN with fewer
            than two cases.
    """

    name: str
    runs: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    dice: float
    dice_per_label: Mapping[LabelKey, float]
    behind: float = 0.0
    behind_low: float = 0.0
    behind_high: float = 0.0

    @property
    def within_noise(self) -> bool:
        """Whether other cases could have put it first."""
        return not self.behind_low > 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        content = asdict(self)
        content["dice_per_label"] = {key_text(key): value for key, value in self.dice_per_label.items()}
        return content | {"within_noise_of_best": self.within_noise}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Candidate:
        """Inverse of `to_json`.

        Raises:
            SegflowError: A key is missing, or its value cannot be used.
        """
        by_label = {key_from_text(key): dice for key, dice in value["dice_per_label"].items()}
        return record_from({**value, "dice_per_label": by_label}, cls)


@dataclass(frozen=True, slots=True)
class Selection:
    """The ranking of candidates, and the one to predict with.

    Attributes:
        dataset: Name of the dataset.
        candidates: All, the best first.
        cases: Ids of the cases that all candidates were compared on.
        crossval: Folder of the best candidate's cross-validated label maps.
        postprocessing: File of the steps chosen for it.
        dice_after: Its mean foreground Dice with those steps.
        notes: Remarks for the user, one sentence each.
        commands: Command lines that predict new images; INPUT and OUTPUT stand for the folders.
    """

    dataset: str
    candidates: tuple[Candidate, ...]
    cases: tuple[str, ...]
    crossval: str
    postprocessing: str
    dice_after: float
    notes: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def best(self) -> Candidate:
        """The candidate with the highest Dice; the simplest among equal ones."""
        return self.candidates[0]

    def to_json(self) -> dict[str, Any]:
        """The content of ``selection.json``."""
        return {
            "format": 1,
            "dataset": self.dataset,
            "best": self.best.name,
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "cases": list(self.cases),
            "crossval": self.crossval,
            "postprocessing": self.postprocessing,
            "dice_after_postprocessing": self.dice_after,
            "notes": list(self.notes),
            "commands": list(self.commands),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Selection:
        """Inverse of `to_json`.

        Raises:
            SegflowError: The content is not that of a selection.
        """
        try:
            ranked = [Candidate.from_json(candidate) for candidate in value["candidates"]]
            return record_from({**value, "candidates": ranked, "dice_after": value["dice_after_postprocessing"]}, cls)
        except SegflowError as error:
            raise SegflowError(f"this is not the content of selection.json: {error}") from None
        except UNUSABLE as error:
            raise SegflowError(f"this is not the content of selection.json: {error!r}") from None
