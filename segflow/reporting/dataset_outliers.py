"""Cases whose measurements are far from those of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LEAST_CASES = 8
"""Cases from which on it is known what is usual."""
FAR = 3.0
"""Widths of the middle half of the values beyond its ends from which on a value is an outlier (Tukey's *far out*)."""
LEAST_WIDTH = 0.02
"""Relative width of the middle half that is taken where the values differ less."""
RARE, FEW = 0.05, 2
"""Share and number of cases of which at least one must not be exceeded: what more cases have belongs to the dataset."""


@dataclass(frozen=True, slots=True)
class Outlier:
    """A value that is far from those of other cases, or several such values of one quantity.

    Attributes:
        case_ids: The case, or the cases if there are too many to be outliers; the farthest first.
        quantity: What was measured, with its unit.
        value: Its value in the first case.
        low, high: Lowest and highest value of the other cases.
    """

    case_ids: tuple[str, ...]
    quantity: str
    value: float
    low: float
    high: float


def find_outliers(quantities: Mapping[str, Mapping[str, float]]) -> list[Outlier]:
    """Outliers of each quantity: single cases first, the farthest first.

    Args:
        quantities: Quantity → case → value. Quantities of which all values are positive are compared by their
            logarithms, since sizes and volumes differ by factors. NaN is left out.
    """
    found: list[tuple[float, Outlier]] = []
    for quantity, values in quantities.items():
        known = {case: value for case, value in values.items() if not math.isnan(value)}
        if len(known) < LEAST_CASES:
            continue
        far = _far(known)
        if not far:
            continue
        usual = [value for case, value in known.items() if case not in far]
        order = sorted(far, key=lambda case: (-far[case], case))
        groups = [(case,) for case in order] if len(far) <= max(FEW, RARE * len(known)) else [tuple(order)]
        found.extend(
            (far[group[0]], Outlier(group, quantity, known[group[0]], min(usual), max(usual))) for group in groups
        )
    return [outlier for _, outlier in sorted(found, key=lambda item: (len(item[1].case_ids) > 1, -item[0]))]


def _far(values: Mapping[str, float]) -> dict[str, float]:
    """Outliers → their distance from the middle half of the values, in its widths."""
    array = np.array(list(values.values()))
    positive = bool((array > 0).all())
    scaled = np.log(array) if positive else array
    first, middle, third = np.quantile(scaled, [0.25, 0.5, 0.75])
    width = max(float(third - first), LEAST_WIDTH if positive else LEAST_WIDTH * max(abs(float(middle)), 1e-12))
    distances = np.maximum(first - scaled, scaled - third) / width
    return {case: float(far) for case, far in zip(values, distances, strict=True) if far > FAR}
