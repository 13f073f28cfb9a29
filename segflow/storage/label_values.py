"""The values of label maps, and which of them a dataset declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels

COUNTED = 1 << 15
"""Largest range of values that is counted in a table, which takes memory. Differences must fit int16."""
AT_ONCE = 1 << 18
"""Voxels that are counted together."""

LEFT_OUT = "what labels_present leaves out for this case"
LEFT_OUT_FIX = "Add it to the case's labels_present in dataset.json, or correct the label map."


@dataclass(frozen=True, slots=True)
class ValueRoles:
    """What the values in files of label maps stand for.

    Attributes:
        declared: All that the dataset declares, ascending.
        background: Those of the background.
        ignored: Those of the ignore label.
        absent: Those that a case should not have by ``labels_present`` → the name of their label or region.
    """

    declared: tuple[int, ...]
    background: tuple[int, ...] = (0,)
    ignored: tuple[int, ...] = ()
    absent: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, labels: Labels, case_id: str = "") -> ValueRoles:
        """The roles of the values of a dataset, for one of its cases."""
        ignore = labels.ignore_label
        own = {number: labels.values[number] if labels.values else (number,) for number in (0, ignore or 0)}
        absent = {
            value: name
            for number, name in labels.absent_labels(case_id).items()
            for value in (labels.values[number] if labels.values else (number,))
        }
        return cls(labels.declared_values, own[0], () if ignore is None else own[ignore], absent)

    def without_background(self, label: np.ndarray) -> np.ndarray:
        """The voxels of a label map, any shape, that are not background: a mask of the same shape."""
        if len(self.background) == 1:
            return np.asarray(label != self.background[0])
        return np.isin(label, self.background, invert=True)


def label_values(label: np.ndarray) -> list[int]:
    """The values of a label map (Z, Y, X), ascending."""
    lowest, highest = int(label.min()), int(label.max())
    if highest - lowest >= COUNTED:
        return [int(value) for value in np.unique(label)]
    seen = np.zeros(highest - lowest + 1, dtype=bool)
    depth = max(1, AT_ONCE // label[0].size)
    for start in range(0, len(label), depth):  # in parts, since counting copies its input to 64 bits
        counts = np.bincount(label[start : start + depth].ravel() - lowest, minlength=seen.size)
        seen |= counts > 0
    return [int(index) + lowest for index in np.flatnonzero(seen)]


def refuse_unknown_values(values: Sequence[int], labels: Labels, case_id: str) -> None:
    """Refuse classes of a label map that the dataset does not declare, or not for this case.

    Raises:
        SegflowError: There are some. The error names the case.
    """
    classes = set(labels.classes)
    unknown = sorted(labels.value_of(value) for value in values if value not in classes)
    if unknown:
        raise SegflowError(
            "the label map holds values that dataset.json does not name",
            case=case_id,
            found=unknown[:10],
            expected=f"only {list(labels.declared_values)}",
            fix="Name them in dataset.json, or correct the label map.",
        )
    absent = labels.absent_labels(case_id)
    if held := [value for value in values if value in absent]:
        raise SegflowError(
            f"the label map holds {LEFT_OUT}: {', '.join(dict.fromkeys(absent[value] for value in held))}",
            case=case_id,
            found=[*map(labels.value_of, held)],
            fix=LEFT_OUT_FIX,
        )
