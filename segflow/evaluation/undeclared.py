"""Values of label maps that are not labels of the dataset. They are scored as background and reported."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from segflow.core.labels import Labels
from segflow.core.wording import counted, some
from segflow.evaluation.overlap import JointCounts

logger = logging.getLogger(__name__)

MASK = 255
"""Value that picture programs write where a mask is 1."""


@dataclass(frozen=True, slots=True)
class Undeclared:
    """Values of one case that the dataset does not name, ascending."""

    prediction: tuple[int, ...]
    reference: tuple[int, ...]


def undeclared_values(counts: JointCounts, labels: Labels) -> Undeclared:
    """Find undeclared values in the counts of both label maps of a case."""
    classes = set(labels.classes)
    ours, theirs = (
        tuple(sorted(labels.value_of(value) for value in values if value not in classes))
        for values in (counts.values_of_prediction(), counts.values_of_reference())
    )
    return Undeclared(ours, theirs)


def warn_of_undeclared(found: Mapping[str, Undeclared], labels: Labels) -> None:
    """Log one line for the predictions and one for the references, if there are such values.

    Args:
        found: Case → its values.
        labels: The label definition.
    """
    for side in ("prediction", "reference"):
        values = {case_id: getattr(undeclared, side) for case_id, undeclared in sorted(found.items())}
        concerned = [case_id for case_id, own in values.items() if own]
        if not concerned:
            continue
        distinct = sorted({value for own in values.values() for value in own})
        logger.warning(
            "%s: the %s holds values that are no labels, and they count as background; found %s in %s; "
            "expected only %s. %s",
            counted(len(concerned), "case"),
            side,
            some([str(value) for value in distinct]),
            some(concerned),
            list(labels.declared_values),
            "If 255 means 1, name both in dataset.json: [1, 255]."
            if distinct == [MASK]
            else "Is this the dataset.json of these label maps?",
        )
