"""What probabilities mean, written the plain way: what the streamed decisions are held against."""

from __future__ import annotations

import numpy as np

from segflow.core.labels import Labels


def labels_from_probabilities(probabilities: np.ndarray, labels: Labels) -> np.ndarray:
    """The label map: the largest of (K, Z, Y, X), or every region above one half in the order of painting."""
    highest = max(*labels.all_labels, *(labels.regions_class_order or (0,)))
    result = np.zeros(probabilities.shape[1:], np.uint8 if highest < 256 else np.uint16)
    if labels.has_regions:
        for probability, value in zip(probabilities, labels.regions_class_order or (), strict=True):
            result[probability > 0.5] = value
        return result
    return np.array(labels.all_labels, result.dtype)[probabilities.argmax(0)]
