"""A user's own metrics, computed beside the shipped ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.labels import LabelKey, Labels
from segflow.core.metrics import METRICS
from segflow.core.own_part import OwnPart
from segflow.evaluation.label_maps import mask_of

CONTRACT = (
    "(prediction, reference, spacing) → a number: two bool arrays (Z, Y, X) of one label, and mm along z, y, x; "
    "NaN where the metric is not defined"
)


def check_metrics(metrics: Mapping[str, OwnPart]) -> None:
    """Refuse metrics that break their contract.

    Args:
        metrics: Name → metric.

    Raises:
        SegflowError: A metric breaks the contract, or has the name of a shipped one.
    """
    for name, metric in metrics.items():
        if name in METRICS or not name.strip():
            raise SegflowError(
                f"{metric.setting}: a metric of one's own needs a name of its own",
                found=repr(name),
                expected=f"none of {', '.join(METRICS)}",
            )
        metric.check(CONTRACT, arguments=3)


def own_scores(
    metrics: Mapping[str, OwnPart],
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    labels: Labels,
) -> dict[LabelKey, dict[str, float]]:
    """Score a prediction by a user's own metrics, for every foreground label, or for every region if there are regions.

    Voxels whose reference is the ignore label are background in both masks.

    Args:
        metrics: Name → metric.
        prediction: Whole numbers (Z, Y, X).
        reference: Whole numbers, same shape.
        spacing: mm along z, y, x.
        labels: The label definition.

    Raises:
        SegflowError: A metric failed, or did not return a number.
    """
    scores: dict[LabelKey, dict[str, float]] = {key: {} for key in labels.foreground_keys}
    if not metrics:
        return scores
    ignored = None if labels.ignore_label is None else reference == labels.ignore_label
    for key, own in scores.items():
        members = (key,) if isinstance(key, int) else key
        masks = [mask_of(label_map, members) for label_map in (prediction, reference)]
        if ignored is not None:
            masks = [mask & ~ignored for mask in masks]
        for name, metric in metrics.items():
            # Each metric gets its own masks, since a metric may change them.
            value = metric.run(CONTRACT, *(mask.copy() for mask in masks), tuple(float(s) for s in spacing))
            own[name] = _number(value, metric)
    return scores


def _number(value: object, metric: OwnPart) -> float:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)):
        raise metric.refused(f"{type(value).__name__}, which is no number", CONTRACT)
    return float(value)
