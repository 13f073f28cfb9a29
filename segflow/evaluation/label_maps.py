"""Where the labels of a map lie, found for all of them in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from segflow.core.geometry import Box

LabelBoxes = Sequence[tuple[slice, ...] | None]
"""Bounding box of label 1, 2, …; None for a label that does not occur."""


def boxes_of_labels(label_map: np.ndarray) -> LabelBoxes:
    """Bounding boxes of all labels from 1 on, in one pass over the map (Z, Y, X) of whole numbers."""
    boxes: LabelBoxes = ndimage.find_objects(label_map)
    return boxes


def box_of(labels: Iterable[int], boxes: Iterable[LabelBoxes]) -> Box | None:
    """What some labels fill together, in one or several maps of the same shape; None where none of them occurs."""
    members = tuple(labels)
    found = [maps[value - 1] for maps in boxes for value in members if 0 < value <= len(maps)]
    present = [box for box in found if box is not None]
    if not present:
        return None
    start = tuple(min(box[axis].start for box in present) for axis in range(3))
    stop = tuple(max(box[axis].stop for box in present) for axis in range(3))
    return Box(start, stop)


def mask_of(label_map: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """bool, the voxels that have one of the labels."""
    return label_map == labels[0] if len(labels) == 1 else np.isin(label_map, labels)


def physical_spacing(spacing: Sequence[float], shape: Sequence[int]) -> tuple[float, float, float]:
    """The spacing in mm, with 1 mm for the made-up thickness of a 2D image (recipe 1.5), so that its mm³ are mm²."""
    z, y, x = spacing
    return (1.0, y, x) if shape[0] == 1 and z > 100 * max(y, x) else (z, y, x)
