"""Steps that change predicted label maps, as plain data: the content of ``postprocessing.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segflow.core.errors import UNUSABLE, SegflowError
from segflow.core.labels import LARGEST_LABEL, LabelKey, key_from_text, key_text
from segflow.core.names import shortened

STEP_KINDS = ("keep_largest", "remove_small", "fill_holes")


@dataclass(frozen=True, slots=True)
class PostprocessingStep:
    """One operation on a label map.

    Attributes:
        kind: ``keep_largest`` keeps the largest connected component of the labels' union, and others of equal size.
            ``remove_small`` removes components below ``min_volume_mm3``. ``fill_holes`` gives background that the
            labels enclose the value ``fill_with``. Removed voxels become background.
        labels: The classes whose union it works on, see `Labels`.
        min_volume_mm3: For ``remove_small``.
        fill_with: Class for ``fill_holes``.
    """

    kind: str
    labels: tuple[int, ...]
    min_volume_mm3: float = 0.0
    fill_with: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the numbers that the kind uses."""
        content: dict[str, Any] = {"kind": self.kind, "labels": list(self.labels)}
        if self.kind == "remove_small":
            content["min_volume_mm3"] = self.min_volume_mm3
        if self.kind == "fill_holes":
            content["fill_with"] = self.fill_with
        return content

    @classmethod
    def from_json(cls, value: Any) -> PostprocessingStep:
        """Inverse of `to_json`, for files that a person may have written.

        Raises:
            SegflowError: The kind is unknown, or a value is missing or of the wrong kind.
        """
        if not isinstance(value, Mapping) or value.get("kind") not in STEP_KINDS:
            raise SegflowError("unknown step", found=shortened(value), expected=f"'kind': {' | '.join(STEP_KINDS)}")
        kind = value["kind"]
        try:
            step = cls(
                kind=kind,
                labels=tuple(int(label) for label in value["labels"]),
                min_volume_mm3=float(value["min_volume_mm3"]) if kind == "remove_small" else 0.0,
                fill_with=int(value["fill_with"]) if kind == "fill_holes" else 0,
            )
        except UNUSABLE as error:
            raise SegflowError(f"step '{kind}' is incomplete: {error!r}", found=dict(value)) from None
        if not step.labels or min(step.labels) < 1 or max(step.labels) > LARGEST_LABEL:
            raise SegflowError(f"step '{kind}' needs foreground labels", found=shortened(list(step.labels)))
        if not 0 <= step.fill_with <= LARGEST_LABEL or math.isnan(step.min_volume_mm3):
            raise SegflowError(f"step '{kind}' holds an impossible number", found=shortened(dict(value)))
        return step


@dataclass(frozen=True, slots=True)
class PostprocessingTrial:
    """One step that was tried in the choice.

    Attributes:
        step: The step, tried on top of the steps accepted before it.
        accepted: Whether it is part of the choice.
        before, after: Label or region → mean Dice over the cases.
    """

    step: PostprocessingStep
    accepted: bool
    before: Mapping[LabelKey, float]
    after: Mapping[LabelKey, float]


@dataclass(frozen=True, slots=True)
class PostprocessingChoice:
    """The steps to apply, in order, and the scores that chose them.

    Attributes:
        steps: May be empty; label maps then stay as they are.
        before, after: Label or region → mean Dice over the cases, without and with the steps.
        trials: Everything that was tried.
        cases: Number of cases that it was chosen on.
    """

    steps: tuple[PostprocessingStep, ...]
    before: Mapping[LabelKey, float]
    after: Mapping[LabelKey, float]
    trials: tuple[PostprocessingTrial, ...] = ()
    cases: int = 0

    def to_json(self) -> dict[str, Any]:
        """The content of ``postprocessing.json``."""
        return {
            "format": 1,
            "steps": [step.to_json() for step in self.steps],
            "cases": self.cases,
            "dice_before": _texts(self.before),
            "dice_after": _texts(self.after),
            "tried": [
                {
                    "step": trial.step.to_json(),
                    "accepted": trial.accepted,
                    "dice_before": _texts(trial.before),
                    "dice_after": _texts(trial.after),
                }
                for trial in self.trials
            ],
        }

    @classmethod
    def from_json(cls, value: Any) -> PostprocessingChoice:
        """Inverse of `to_json`; only ``steps`` is required, so that a person can write one.

        Raises:
            SegflowError: There are no steps in it, or one cannot be used.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("steps"), (list, tuple)):
            raise SegflowError("there is no list 'steps'", expected='{"steps": [{"kind": …}, …]}')
        trials = tuple(
            PostprocessingTrial(
                PostprocessingStep.from_json(trial["step"]),
                bool(trial["accepted"]),
                _keys(trial["dice_before"]),
                _keys(trial["dice_after"]),
            )
            for trial in value.get("tried", ())
        )
        return cls(
            steps=tuple(PostprocessingStep.from_json(step) for step in value["steps"]),
            before=_keys(value.get("dice_before", {})),
            after=_keys(value.get("dice_after", {})),
            trials=trials,
            cases=int(value.get("cases", 0)),
        )


def _texts(dice: Mapping[LabelKey, float]) -> dict[str, float]:
    return {key_text(key): value for key, value in dice.items()}


def _keys(dice: Mapping[str, float]) -> dict[LabelKey, float]:
    return {key_from_text(key): float(value) for key, value in dice.items()}
