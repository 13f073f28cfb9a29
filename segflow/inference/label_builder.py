"""A label map in memory that grows with the logits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.labels import Labels
from segflow.core.preprocessed_case import SpatialRecord
from segflow.inference.sliding_window import LogitSlab
from segflow.preprocessing.restore import Restorer, label_type


class LabelBuilder:
    """Decides slabs of logits as they come, into a label map in memory.

    Args:
        restorer: Makes the `Restorer` to the map's grid.
        label: The map (Z, Y, X), zeros.
        inside: The part of it, in plan axes, that the restorer fills; None for all of it.
    """

    def __init__(self, restorer: Callable[[], Restorer], label: np.ndarray, inside: np.ndarray | None = None) -> None:
        self.label = label
        self._make = restorer
        self._inside = label if inside is None else inside
        self._restorer = restorer()

    @classmethod
    def in_image(cls, spatial: SpatialRecord, plan: ConfigurationPlan, labels: Labels) -> LabelBuilder:
        """For the label map of a case in image space."""
        label = np.zeros(spatial.shape_original, label_type(labels))
        inside = label.transpose(spatial.axis_order)[spatial.crop.slices]
        return cls(lambda: Restorer.to_image(spatial, plan, labels), label, inside)

    def take(self, slab: LogitSlab) -> None:
        """Take the next slab. One that begins with the first plane begins anew."""
        if slab.start == 0:
            self._restorer = self._make()
        part = self._restorer.take(slab.start, slab.logits, slab.release)
        if part is not None:
            part.decide(self._inside[slice(*part.rows)])
