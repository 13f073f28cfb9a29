"""Scores of cases and of a whole comparison: the content of ``summary.json`` (recipe 12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.labels import LabelKey, key_from_text, key_text

OVERLAP_METRICS = ("Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref")
"""nnU-Net's metrics, under its names. Counts are voxels."""

METRICS = (
    *OVERLAP_METRICS,
    "volume_difference",
    "volume_difference_mm3",
    "hd95_mm",
    "mean_surface_distance_mm",
    "surface_dice",
    "lesion_f1",
    "lesions_found",
    "lesions_missed",
    "lesions_false",
)
"""All shipped metrics. Any other name in a summary is a user's own metric."""

HEADINGS = {
    "Dice": "Dice",
    "IoU": "IoU",
    "hd95_mm": "HD95 [mm]",
    "mean_surface_distance_mm": "mean distance [mm]",
    "surface_dice": "surface Dice",
    "volume_difference": "volume difference",
    "lesion_f1": "lesion F1",
}
"""Metric → its heading in tables, which show those that were computed. A user's own metrics follow by name."""

LOWER_IS_BETTER = frozenset({"hd95_mm", "mean_surface_distance_mm", "FN", "FP", "lesions_missed", "lesions_false"})
"""Metrics of which a lower value is better. Of volume differences neither is, and a user's own are not known."""


SHARES = ("Dice", "IoU", "surface_dice", "lesion_f1")
"""Metrics between 0 and 1."""


@dataclass(frozen=True, slots=True)
class CaseMetrics:
    """The scores of one case.

    Attributes:
        case_id: Name of the case.
        metrics: Label or region → metric → value; NaN where a metric is undefined.
        prediction_file: The label map that was scored.
        reference_file: The label map that it was compared with.
    """

    case_id: str
    metrics: Mapping[LabelKey, Mapping[str, float]]
    prediction_file: str
    reference_file: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The scores of a folder of label maps.

    Attributes:
        cases: One entry per scored case, sorted by case id.
        mean: Label or region → metric → mean over the cases in which it is defined; NaN if there are none.
        foreground_mean: Metric → plain mean over the labels or regions; NaN if one of them is NaN.
        failed: Case → message, for the cases that could not be scored.
    """

    cases: tuple[CaseMetrics, ...]
    mean: Mapping[LabelKey, Mapping[str, float]]
    foreground_mean: Mapping[str, float]
    failed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_cases(cls, cases: Sequence[CaseMetrics], failed: Mapping[str, str] | None = None) -> Summary:
        """Take the means of recipe 12 over cases that were scored for the same labels and metrics."""
        ordered = tuple(sorted(cases, key=lambda case: case.case_id))
        first = ordered[0].metrics if ordered else {}
        mean = {
            key: {name: mean_of_defined([case.metrics[key][name] for case in ordered]) for name in metrics}
            for key, metrics in first.items()
        }
        names = next(iter(first.values()), {})
        foreground = {name: float(np.mean([mean[key][name] for key in mean if key != 0])) for name in names}
        return cls(ordered, mean, foreground, dict(failed or {}))

    @property
    def keys(self) -> tuple[LabelKey, ...]:
        """The labels or regions that were scored, in the order of the dataset."""
        return tuple(self.mean)

    @property
    def score(self) -> float:
        """Mean foreground Dice over the labels that occur in any case.

        Equal to ``foreground_mean["Dice"]``, unless that is NaN because a label occurs in no case.
        """
        return mean_of_defined([metrics["Dice"] for key, metrics in self.mean.items() if key != 0])

    def values(self, metric: str) -> np.ndarray:
        """float64 (cases, labels) of one metric, NaN where it is undefined."""
        rows = [[case.metrics[key][metric] for key in self.keys] for case in self.cases]
        return np.asarray(rows, dtype=np.float64).reshape(len(self.cases), len(self.keys))

    def to_json(self) -> dict[str, Any]:
        """nnU-Net's ``summary.json``; ``failed`` is ours and appears only where something failed."""
        content: dict[str, Any] = {
            "foreground_mean": dict(self.foreground_mean),
            "mean": {key_text(key): dict(metrics) for key, metrics in self.mean.items()},
            "metric_per_case": [
                {
                    "metrics": {key_text(key): dict(metrics) for key, metrics in case.metrics.items()},
                    "prediction_file": case.prediction_file,
                    "reference_file": case.reference_file,
                }
                for case in self.cases
            ],
        }
        if self.failed:
            content["failed"] = dict(self.failed)
        return content

    @classmethod
    def from_json(cls, value: Mapping[str, Any], file_ending: str = "") -> Summary:
        """Inverse of `to_json`; reads nnU-Net's files as well.

        Args:
            value: The content of ``summary.json``.
            file_ending: Ending of the label maps, taken off their names to give the case ids. If it is empty,
                everything from the first dot on is taken off.

        Raises:
            SegflowError: A case lacks a score that others have.
        """
        cases = []
        for entry in value["metric_per_case"]:
            name = Path(entry["prediction_file"]).name
            case_id = name.removesuffix(file_ending) if file_ending else name.split(".")[0]
            metrics = {key_from_text(key): dict(scores) for key, scores in entry["metrics"].items()}
            cases.append(CaseMetrics(case_id, metrics, entry["prediction_file"], entry["reference_file"]))
        mean = {key_from_text(key): dict(scores) for key, scores in value["mean"].items()}
        tables: dict[str, Mapping[LabelKey, Mapping[str, Any]]] = {"mean": mean}
        tables |= {case.case_id: case.metrics for case in cases}
        for where, table in tables.items():
            for key in mean:
                _check_scores(f"{where}, label {key}", table.get(key, {}), next(iter(mean.values())))
        return cls(tuple(cases), mean, dict(value["foreground_mean"]), dict(value.get("failed", {})))


def _check_scores(where: str, scores: Mapping[str, Any], wanted: Iterable[str]) -> None:
    lacking = [name for name in (*OVERLAP_METRICS, *wanted) if not isinstance(scores.get(name), (int, float))]
    if lacking:
        raise SegflowError(f"the scores of {where} lack numbers", found=f"none for {', '.join(lacking)}")


def mean_of_defined(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    numbers = np.asarray(values, dtype=np.float64)
    defined = numbers[~np.isnan(numbers)]
    return float(defined.mean()) if defined.size else float("nan")
