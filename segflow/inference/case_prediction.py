"""A case's prediction on its way from the network to the files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from segflow.core.configuration_plan import ConfigurationPlan
from segflow.core.labels import Labels
from segflow.core.preprocessed_case import SpatialRecord
from segflow.preprocessing.restore import restore_labels


class CasePrediction:
    """What waits to be written. It holds no memory of an accelerator, since the next case is computed there meanwhile.

    On an accelerator the label map is decided at once, which is quick there. On a CPU that is left to whoever writes
    it, beside the next case's computation.

    Args:
        logits: float (K, Z, Y, X) in plan space, on any device.
        spatial: How the case came to plan space.
        plan: The configuration.
        labels: The label definition.
        keep_logits: More than the label map will be made of them.

    Attributes:
        logits: float (K, Z, Y, X) in main memory; None if they are not kept.
        label_map: Gives uint8 or uint16 (Z, Y, X) in image space.
    """

    def __init__(
        self, logits: Tensor, spatial: SpatialRecord, plan: ConfigurationPlan, labels: Labels, *, keep_logits: bool
    ) -> None:
        self.logits: Tensor | None = logits
        self.label_map: Callable[[], np.ndarray] = partial(restore_labels, logits, spatial, plan, labels)
        if logits.device.type != "cpu":
            decided = self.label_map()
            self.label_map = lambda: decided
            self.logits = logits.cpu() if keep_logits else None
